"""Data augmentation: new sentences from old ones, some words replaced by others that fit (TinyBERT, Jiao 2020)."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.random import Generator
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from stages.errors import BadInput
from stages.models.masked_lm import load_masked_lm, train_head
from stages.models.pretrained import get_max_length, load_from_hub, load_tokenizer
from stages.settings import Augment, Base
from stages.tasks.candidates import Word, propose_words

log = logging.getLogger(__name__)
SETTING = "prepare.augment.model"


@dataclass(frozen=True, kw_only=True)
class WordSource:
    """The model that proposes the words."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fresh: frozenset[str]
    """Parameters of a masked-LM head that the checkpoint lacks."""
    length: int
    """Texts are truncated to this many tokens for it."""


def load_word_source(base: Base, settings: Augment, length: int, seed: int) -> WordSource:
    """The model that `settings` names, or the base model; its embeddings are all that `neighbors` needs.

    Raises:
        BadInput: it cannot be loaded, or is no masked language model where one is needed.
    """
    owner = Base(model=settings.model) if settings.model else base
    setting = SETTING if settings.model else "base.model"
    tokenizer = load_tokenizer(owner, setting=setting)
    set_seed(seed)  # a fresh head is drawn here
    if settings.source == "neighbors":
        model, fresh = load_from_hub(AutoModel.from_pretrained, owner, setting=setting), frozenset()
    elif tokenizer.mask_token_id is None:
        raise BadInput(
            f"{setting} {owner.model} has no mask token; give {SETTING} an encoder, or take source: neighbors"
        )
    else:
        model, fresh = load_masked_lm(owner, setting=setting)
    length = min(length, get_max_length(owner, tokenizer))
    return WordSource(name=owner.model, model=model, tokenizer=tokenizer, fresh=fresh, length=length)


def augment_sentences(
    train: Dataset, source: WordSource, settings: Augment, seed: int
) -> tuple[Dataset, dict[str, Any]]:
    """`copies` variants of each training example, and a report on the words' source.

    A head that the checkpoint lacks is trained first. Source: TinyBERT, algorithm 1, with a word's candidates
    taken once from the original sentence, as its released code does. The draws for a row depend on the seed and its
    index alone.

    Args:
        train: columns text, text_pair (pairs only); labels are not looked at.

    Returns:
        Columns text and, for pairs, text_pair, both of them varied; the report for metrics.json.
    """
    report: dict[str, Any] = {"words": {"model": source.name, "source": settings.source}}
    columns = [column for column in ("text", "text_pair") if column in train.column_names]
    if source.fresh:
        report["words"]["head"] = _train_head(train.select_columns(columns), source, settings, seed)
    rows = sorted(np.random.default_rng(seed).permutation(len(train))[: settings.examples].tolist())
    chosen = train.select_columns(columns).select(rows)
    texts = list(dict.fromkeys(text for column in columns for text in chosen[column]))
    words = propose_words(texts, source.model, source.tokenizer, settings, source.length)
    return _make_copies(chosen, rows, dict(zip(texts, words, strict=True)), settings, seed), report


def _train_head(train: Dataset, source: WordSource, settings: Augment, seed: int) -> dict[str, Any]:
    """Trains the fresh head on the training text; logs the loss at both ends."""
    texts = [train[column][:] for column in train.column_names]
    tokens = source.tokenizer(*texts, truncation=True, max_length=source.length)["input_ids"]
    losses = train_head(source.model, source.fresh, source.tokenizer, tokens, settings.head_training, seed)
    some = max(1, len(losses) // 10)
    first, last = (round(sum(part) / some, 2) for part in (losses[:some], losses[-some:]))
    log.info(
        "prepare: %s has no masked-LM head; one was trained for %d steps on the training text (loss %s -> %s)",
        source.name, len(losses), first, last,
    )  # fmt: skip
    return {"trained": settings.head_training.trains, "steps": len(losses), "loss_first": first, "loss_last": last}


def _make_copies(
    chosen: Dataset,
    rows: list[int],
    words: dict[str, list[tuple[Word, list[str]]]],
    settings: Augment,
    seed: int,
) -> Dataset:
    made: dict[str, list[str]] = {column: [] for column in chosen.column_names}
    for row, example in zip(rows, chosen, strict=True):
        draw = np.random.default_rng([seed, row])
        for _ in range(settings.copies):
            for column, text in example.items():
                made[column].append(replace_words(text, words[text], settings.probability, draw))
    return Dataset.from_dict(made, chosen.features)


def replace_words(text: str, words: list[tuple[Word, list[str]]], probability: float, draw: Generator) -> str:
    """The text with each word replaced, with that probability, by any of its candidates."""
    parts, done = [], 0
    for word, choices in words:
        if choices and draw.random() < probability:
            parts += [text[done : word.start], choices[draw.integers(len(choices))]]
            done = word.end
    return "".join([*parts, text[done:]])


def select_new_rows(made: Dataset, known: Iterable[Dataset]) -> list[int]:
    """Rows of `made` whose token ids are those of none of `known`'s rows, and of none before."""
    seen = {tuple(ids) for split in known for ids in split["input_ids"]}
    new = []
    for row, ids in enumerate(map(tuple, made["input_ids"])):
        if ids not in seen:
            seen.add(ids)
            new.append(row)
    return new
