"""Splits of texts with labels: tokenized, described, and written."""

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from stages.errors import BadInput
from stages.settings import Augment, Prepare
from stages.tasks.augment import WordSource, augment_sentences, load_word_source, select_new_rows
from stages.tasks.preparation import Preparation, R
from stages.tasks.splits import fingerprint_splits

Report = dict[str, Any]


def write_labeled_splits(
    given: Preparation[R],
    load: Callable[[Preparation[R]], dict[str, Dataset]],
    describe_labels: Callable[[list[Any]], Report],
) -> tuple[str, dict[str, Report]]:
    """Writes the splits, `augmented` among them where it is asked for.

    Args:
        load: the splits, with columns text, text_pair (pairs only), labels.
        describe_labels: what to report of a split's labels.

    Returns:
        The content's fingerprint, and a report on each split.
    """
    settings = given.settings
    source = (
        load_word_source(given.base, settings.augment, settings.max_length, given.seed) if settings.augment else None
    )
    splits = load(given)
    content = fingerprint_splits(splits)
    splits = {split: tokenize(rows, given.tokenizer, settings, f"{content}{split}") for split, rows in splits.items()}
    reports: dict[str, Report] = {}
    if source and settings.augment:
        splits["augmented"], reports["augmented"] = _augment(given, settings.augment, splits, source)
    for split, rows in splits.items():
        rows.save_to_disk(str(given.folder / split))
        labels = describe_labels(rows["labels"][:]) if "labels" in rows.column_names else {}
        reports[split] = labels | _measure_truncation(given, rows) | reports.get(split, {})
    return content, reports


def tokenize(rows: Dataset, tokenizer: PreTrainedTokenizerBase, settings: Prepare, fingerprint: str) -> Dataset:
    """Adds columns input_ids, attention_mask, token_type_ids (where the tokenizer has them) and length (tokens).

    Args:
        fingerprint: the content's; the library's own changes from run to run.
    """
    texts = [column for column in ("text", "text_pair") if column in rows.column_names]

    def encode(*batch: list[str]) -> dict[str, list[Any]]:
        encoded = tokenizer(*batch, truncation="longest_first", max_length=settings.max_length, padding=False)
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]]}

    return rows.map(
        encode,
        input_columns=texts,
        batched=True,
        num_proc=settings.workers if settings.workers > 1 else None,
        new_fingerprint=fingerprint,
        desc="tokenizing",
    )


def _augment(
    given: Preparation[R], settings: Augment, splits: dict[str, Dataset], source: WordSource
) -> tuple[Dataset, Report]:
    """New sentences whose tokens are none of the splits', and a report on them."""
    rows, report = augment_sentences(splits["train"], source, settings, given.seed)
    content = fingerprint_splits({"augmented": rows})
    rows = tokenize(rows, given.tokenizer, given.settings, f"{content}copies")
    new = select_new_rows(rows, splits.values())
    if not new:
        raise BadInput("prepare.augment made no new sentence; raise prepare.augment.copies or probability")
    return rows.select(new, new_fingerprint=f"{content}augmented"), {"dropped": len(rows) - len(new), **report}


def _measure_truncation(given: Preparation[R], rows: Dataset) -> Report:
    """`truncated`: the share of texts that were cut, 0 to 1."""
    most = given.settings.max_length
    full = rows.select(np.flatnonzero(np.array(rows["length"]) == most))
    texts = [full[column][:] for column in ("text", "text_pair") if column in full.column_names]
    whole = given.tokenizer(*texts, verbose=False)["input_ids"] if len(full) else []
    return {"truncated": round(sum(len(ids) > most for ids in whole) / len(rows), 6)}
