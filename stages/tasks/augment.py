"""New sentences from old ones: some words replaced by others that could stand there (TinyBERT, Jiao et al. 2020)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.models.base import from_hub, load_tokenizer, longest
from stages.models.masked_lm import load_masked_lm, warm_up
from stages.settings import Augment, BadInput, Base
from stages.tasks.candidates import Word, candidates

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.random import Generator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SETTING = "prepare.augment.model"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The model that the words come from."""

    name: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    fresh: frozenset[str]
    """Parameters of a masked-LM head that the checkpoint did not have."""
    length: int
    """Most tokens that it is given."""


def load_source(base: Base, settings: Augment, length: int, seed: int) -> Source:
    """The model that `settings` names, or the base model; its embeddings are all that `neighbors` needs.

    Raises:
        BadInput: it cannot be loaded, or is no masked language model where one is needed.
    """
    from transformers import AutoModel, set_seed

    of = Base(model=settings.model) if settings.model else base
    setting = SETTING if settings.model else "base.model"
    tokenizer = load_tokenizer(of, setting=setting)
    set_seed(seed)  # a fresh head is drawn here
    if settings.source == "neighbors":
        model, fresh = from_hub(AutoModel.from_pretrained, of, setting=setting), frozenset()
    elif tokenizer.mask_token_id is None:
        raise BadInput(f"{setting} {of.model} has no mask token; give {SETTING} an encoder, or take source: neighbors")
    else:
        model, fresh = load_masked_lm(of, setting=setting)
    length = min(length, longest(of, tokenizer))
    return Source(name=of.model, model=model, tokenizer=tokenizer, fresh=fresh, length=length)


def augment(train: "Dataset", source: Source, settings: Augment, seed: int) -> tuple["Dataset", dict[str, Any]]:
    """`copies` variants of each training example, and what is to be said of the words' source.

    A head that the checkpoint did not have is trained first. Source: TinyBERT, algorithm 1, with a word's candidates
    taken once from the original sentence, as its released code does. The draws for a row depend on the seed and its
    place alone.

    Args:
        train: columns text, text_pair (pairs only); labels are not looked at.

    Returns:
        Columns text and, for pairs, text_pair, both of them varied; the report for metrics.json.
    """
    import numpy as np

    report: dict[str, Any] = {"words": {"model": source.name, "source": settings.source}}
    columns = [column for column in ("text", "text_pair") if column in train.column_names]
    if source.fresh:
        report["words"]["head"] = _make_head(train.select_columns(columns), source, settings, seed)
    rows = sorted(np.random.default_rng(seed).permutation(len(train))[: settings.examples].tolist())
    chosen = train.select_columns(columns).select(rows)
    texts = list(dict.fromkeys(text for column in columns for text in chosen[column]))
    words = candidates(texts, source.model, source.tokenizer, settings, source.length)
    return _copies(chosen, rows, dict(zip(texts, words, strict=True)), settings, seed), report


def _make_head(train: "Dataset", source: Source, settings: Augment, seed: int) -> dict[str, Any]:
    """Warms the fresh head up on the training text; says so, with the loss at both ends."""
    texts = [train[column][:] for column in train.column_names]
    tokens = source.tokenizer(*texts, truncation=True, max_length=source.length)["input_ids"]
    losses = warm_up(source.model, source.fresh, source.tokenizer, tokens, settings.warmup, seed)
    some = max(1, len(losses) // 10)
    first, last = (round(sum(part) / some, 2) for part in (losses[:some], losses[-some:]))
    print(
        f"prepare: {source.name} has no masked-LM head; one was trained for {len(losses)} steps on the training text "
        f"(loss {first} -> {last})"
    )
    return {"trained": settings.warmup.trains, "steps": len(losses), "loss_first": first, "loss_last": last}


def _copies(
    chosen: "Dataset",
    rows: list[int],
    words: dict[str, list[tuple[Word, list[str]]]],
    settings: Augment,
    seed: int,
) -> "Dataset":
    import numpy as np
    from datasets import Dataset

    made: dict[str, list[str]] = {column: [] for column in chosen.column_names}
    for row, example in zip(rows, chosen, strict=True):
        draw = np.random.default_rng([seed, row])
        for _ in range(settings.copies):
            for column, text in example.items():
                made[column].append(varied(text, words[text], settings.probability, draw))
    return Dataset.from_dict(made, chosen.features)


def varied(text: str, words: list[tuple[Word, list[str]]], probability: float, draw: "Generator") -> str:
    """The text with each word replaced, with that probability, by any of its candidates."""
    parts, done = [], 0
    for word, choices in words:
        if choices and draw.random() < probability:
            parts += [text[done : word.start], choices[draw.integers(len(choices))]]
            done = word.end
    return "".join([*parts, text[done:]])


def unseen(made: "Dataset", known: Iterable["Dataset"]) -> list[int]:
    """Rows of `made` that a model reads as none of `known`'s rows and none before: their token ids differ."""
    seen = {tuple(ids) for split in known for ids in split["input_ids"]}
    kept = []
    for row, ids in enumerate(map(tuple, made["input_ids"])):
        if ids not in seen:
            seen.add(ids)
            kept.append(row)
    return kept
