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

Causal language models predict the next token of text: of plain text, in blocks of prepare.max_length tokens, or of
conversations, where the loss counts only the assistant's tokens:

          stories: {kind: causal_lm, text: [text]}                    # .txt, .jsonl, .csv, .parquet: a document a row
          sums: {kind: causal_lm, prompt: question, response: answer, match: "#### (.+)"}
          chats: {kind: causal_lm, messages: messages}                # through the tokenizer's chat template
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.schema.task import Row
from stages.settings import Base, Data, Prepare
from stages.workspace import Workspace

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def prepare(settings: Prepare, work: Workspace, *, name: str, task: Row, data: Data, base: Base) -> dict[str, Any]:
    """Freezes a task's tokenized splits, and returns their statistics.

    Raises:
        BadInput: the source cannot work, or `max_length` is more than the base model can read; or the tokenizer lacks
            what the task's kind needs.
    """
    from stages.kinds import get_kind
    from stages.models.pretrained import load_tokenizer, require_length
    from stages.tasks.preparation import Preparation
    from stages.tasks.splits import read_split

    tokenizer, folder = load_tokenizer(base), work.output / "data"
    require_length(base, tokenizer, settings.max_length, setting="prepare.max_length")
    given = Preparation(
        name=name,
        task=task,
        data=data,
        base=base,
        tokenizer=tokenizer,
        settings=settings,
        seed=work.seed,
        folder=folder,
    )
    content, reports = get_kind(task).write_splits(given)
    _save_task(task, tokenizer, folder)

    splits = {split: read_split(folder, split) for split in reports}
    lengths = {split: _describe_lengths(rows) for split, rows in splits.items()}
    metrics = {"fingerprint": content} | {split: lengths[split] | reports[split] for split in splits}
    (work.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf8")
    _plot_lengths(splits, name, settings.max_length, work.output / "lengths.png")
    work.run.log_dataset(name, content, sum(map(len, splits.values())))
    numbers = {s: lengths[s] | {k: v for k, v in reports[s].items() if isinstance(v, int | float)} for s in splits}
    work.run.log_metrics({f"{split}/{k}": v for split, values in numbers.items() for k, v in values.items()})
    return metrics


def _save_task(task: Row, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    (folder / "task.json").write_text(task.model_dump_json(), encoding="utf8")
    # the base model's file may pad every text to a fixed length, and calls above leave their truncation in it
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(str(folder / "tokenizer"))


def _describe_lengths(rows: "Dataset") -> dict[str, Any]:
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


def _plot_lengths(splits: "dict[str, Dataset]", name: str, max_length: int, path: Path) -> None:
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


def report(name: str, metrics: dict[str, Any]) -> str:
    """One line for the terminal."""
    splits = {split: row["examples"] for split, row in metrics.items() if isinstance(row, dict)}
    return f"{name}: " + ", ".join(f"{count:,} {split} examples" for split, count in splits.items())


if __name__ == "__main__":
    with command("prepare", Prepare, __doc__, "task") as job:
        prepared = prepare(
            job.params.prepare,
            job.work,
            name=job.name,
            task=job.task,
            data=job.params.data,
            base=job.params.base,
        )
        print(report(job.name, prepared))
