"""A task in; tokenized, frozen splits out.

Reads the task's examples from data.source, checks every row, tokenizes with the base model's tokenizer and
freezes the result: the stages after this one read nothing else. The same settings give the same bytes.

    python -m stages.prepare --task sst2

    in   data.source: bundled (the task `sentiment`), hub (nyu-mll/glue), or a folder
    out  outputs/prepare/<task>/data/   train/, validation/ (datasets), task.json, tokenizer/
                                        augmented/ (prepare.augment): new sentences made of train's, no labels
         outputs/prepare/<task>/        metrics.json (counts, lengths, fingerprint), lengths.png

A task of your own is a folder of CSV, TSV, JSONL or Parquet files with named columns, say
reviews/train.csv and reviews/validation.csv under mydata, and a few lines of params.yaml:

    tasks: [reviews]
    data:
      source: mydata
      custom:
        reviews:
          text: [title, body]        # one column, or two for a pair
          label: stars
          labels: [bad, fair, good]  # in the order of their ids; the column holds names or ids
          metrics: [accuracy]        # the first is the score: accuracy, f1, matthews
        price:
          kind: regression           # a number instead of labels
          text: [body]
          label: price
          metrics: [pearson, spearman]

Without a validation file, prepare.validation_share of train is held out, each class in the same share.
TSV is read without quoting, CSV with it.

Causal language models have text whose next token is to be guessed: plain text, in blocks of prepare.max_length tokens,
or conversations, of which only what the assistant says is asked for:

          stories: {kind: causal_lm, text: [text]}                    # .txt, .jsonl, .csv, .parquet: a document a row
          sums: {kind: causal_lm, prompt: question, response: answer, match: "#### (.+)"}
          chats: {kind: causal_lm, messages: messages}                # through the tokenizer's chat template
"""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.language import instructions
from stages.language.packing import packed
from stages.models.base import load_tokenizer, require_length
from stages.settings import BadInput, Base, Data, Prepare
from stages.tasks import Task
from stages.tasks.augment import Source, augment, load_source, unseen
from stages.tasks.preparation import Preparation
from stages.tasks.splits import fingerprint, read_split
from stages.tracking import Run

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Splits = dict[str, "Dataset"]
Reports = dict[str, dict[str, Any]]


def prepare(
    *, name: str, task: Task, data: Data, base: Base, settings: Prepare, seed: int, output: Path, run: Run
) -> dict[str, Any]:
    """Freezes a task's tokenized splits in `output` and returns their statistics.

    Raises:
        BadInput: the source cannot work, or `max_length` is more than the base model can read; of a causal_lm, the
            tokenizer lacks what it takes.
    """
    tokenizer, place = load_tokenizer(base), output / "data"
    require_length(base, tokenizer, settings.max_length, setting="prepare.max_length")
    given = Preparation(
        name=name, task=task, data=data, base=base, tokenizer=tokenizer, settings=settings, seed=seed, place=place
    )
    write = _labeled
    if task.kind == "causal_lm":
        _require_causal(given)
        write = packed if task.text else _conversations
    content, reports = write(given)
    _save(task, tokenizer, place)

    splits = {split: read_split(place, split) for split in reports}
    metrics = {"fingerprint": content} | {split: _lengths(splits[split]) | reports[split] for split in splits}
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf8")
    _plot(splits, name, settings.max_length, output / "lengths.png")
    run.dataset(name, content, sum(map(len, splits.values())))
    run.metrics({f"{s}/{k}": v for s in splits for k, v in metrics[s].items() if not isinstance(v, dict)})
    return metrics


def _labeled(given: Preparation) -> tuple[str, Reports]:
    """Texts with labels: writes the splits; returns the content's name and what is to be said of each split."""
    settings = given.settings
    source = load_source(given.base, settings.augment, settings.max_length, given.seed) if settings.augment else None
    content, splits = given.examples()
    splits = {split: tokenized(rows, given.tokenizer, settings, f"{content}{split}") for split, rows in splits.items()}
    report = {}
    if source:
        splits["augmented"], report["augmented"] = _augmented(given, splits, source)
    for split, rows in splits.items():
        rows.save_to_disk(str(given.place / split))
        report[split] = _statistics(given, rows) | report.get(split, {})
    return content, report


def _conversations(given: Preparation) -> tuple[str, Reports]:
    """The same for prompts and responses, and for chats."""
    content, splits = given.examples()
    reports = {}
    for split, rows in splits.items():
        rows, reports[split] = instructions.tokenized(
            rows, given.task, given.tokenizer, given.settings.max_length, split
        )
        # the content's own name: the library's changes from run to run
        rows.select(range(len(rows)), new_fingerprint=f"{content}{split}").save_to_disk(str(given.place / split))
    return content, reports


def _require_causal(given: Preparation) -> None:
    """Raises BadInput where a tokenizer or a setting is not for causal models; sets how rows are padded."""
    tokenizer = given.tokenizer
    if tokenizer.eos_token_id is None:
        raise BadInput(
            f"base.model {given.base.model} has no end token; give a causal language model whose tokenizer has one"
        )
    if given.settings.augment:
        raise BadInput("prepare.augment makes sentences that have labels; set it to null for a causal_lm task")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()


def tokenized(rows: "Dataset", tokenizer: "PreTrainedTokenizerBase", settings: Prepare, identity: str) -> "Dataset":
    """Adds columns input_ids, attention_mask, token_type_ids (where the tokenizer has them) and length (tokens).

    Args:
        identity: name of the content; the library's own changes from run to run.
    """
    texts = [column for column in ("text", "text_pair") if column in rows.column_names]

    def tokens(*batch: list[str]) -> dict[str, list[Any]]:
        encoded = tokenizer(*batch, truncation="longest_first", max_length=settings.max_length, padding=False)
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]]}

    return rows.map(
        tokens,
        input_columns=texts,
        batched=True,
        num_proc=settings.workers if settings.workers > 1 else None,
        new_fingerprint=identity,
        desc="tokenizing",
    )


def _augmented(given: Preparation, splits: Splits, source: Source) -> tuple["Dataset", dict[str, Any]]:
    """New sentences that read as none of the splits' do, and what is to be said of them."""
    rows, report = augment(splits["train"], source, given.settings.augment, given.seed)
    content = fingerprint({"augmented": rows})
    rows = tokenized(rows, given.tokenizer, given.settings, f"{content}copies")
    kept = unseen(rows, splits.values())
    if not kept:
        raise BadInput("prepare.augment made no new sentence; raise prepare.augment.copies or probability")
    return rows.select(kept, new_fingerprint=f"{content}augmented"), {"dropped": len(rows) - len(kept), **report}


def _save(task: Task, tokenizer: "PreTrainedTokenizerBase", place: Path) -> None:
    (place / "task.json").write_text(task.model_dump_json(), encoding="utf8")
    # the base model's file may pad every text to a fixed length, and calls above leave their truncation in it
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(str(place / "tokenizer"))


def _lengths(rows: "Dataset") -> dict[str, Any]:
    import numpy as np

    lengths = np.array(rows["length"])
    p50, p95 = np.percentile(lengths, [50, 95])
    return {
        "examples": len(rows),
        "length_mean": round(float(lengths.mean()), 3),
        "length_p50": float(p50),
        "length_p95": float(p95),
        "length_max": int(lengths.max()),
    }


def _statistics(given: Preparation, rows: "Dataset") -> dict[str, Any]:
    """Its labels, and the share of texts that were cut, 0 to 1."""
    import numpy as np

    most = given.settings.max_length
    full = rows.select(np.flatnonzero(np.array(rows["length"]) == most))
    texts = [full[column][:] for column in ("text", "text_pair") if column in full.column_names]
    whole = given.tokenizer(*texts, verbose=False)["input_ids"] if len(full) else []
    truncated = sum(len(ids) > most for ids in whole) / len(rows)
    return {**_labels(rows, given.task), "truncated": round(truncated, 6)}


def _labels(rows: "Dataset", task: Task) -> dict[str, Any]:
    """Examples per class; of values, the range; nothing where only the teacher will say."""
    if "labels" not in rows.column_names:
        return {}
    labels = rows["labels"][:]
    if task.kind == "regression":
        return {"value_min": min(labels), "value_max": max(labels)}
    counts = Counter(labels)
    return {"labels": {label: counts[i] for i, label in enumerate(task.labels)}}


def _plot(splits: Splits, name: str, max_length: int, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    longest = max(max(rows["length"]) for rows in splits.values())
    width = 1 + longest // 60  # whole tokens, or bars would hold one length more here and there
    bins = range(0, longest + 1 + width, width)
    for split, rows in splits.items():
        axes.hist(rows["length"], bins=bins, density=True, alpha=0.6, label=split)
    axes.set(title=f"{name}: tokens per example (cut at {max_length})", xlabel="tokens", ylabel="share")
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    with command(Prepare, __doc__, "task") as job:
        prepare(
            name=job.name,
            task=job.task,
            data=job.params.data,
            base=job.params.base,
            settings=job.params.prepare,
            seed=job.params.seed,
            output=job.output,
            run=job.run,
        )
