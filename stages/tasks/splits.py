"""The tokenized splits that `prepare` froze: how later stages read them, and the fingerprint of their content."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset

from stages.errors import BadInput
from stages.schema.task import TASK, Task

COLUMNS = ("text", "text_pair", "prompt", "response", "messages", "labels")
"""What an example may consist of."""


def read_split(data: Path, split: str) -> Dataset:
    """One split, in memory (a later `map` then leaves no cache files in the folder that DVC watches).

    Columns: text, text_pair (pairs only), labels (int64 class ids, or float32 values; `augmented` has none), input_ids,
    attention_mask, token_type_ids (where the tokenizer has them), length (tokens). Of a causal_lm: input_ids, labels
    (int32 token ids, -100 where nothing is predicted), length.

    Raises:
        BadInput: the folder does not hold that split.
    """
    if not (data / split).is_dir():
        raise BadInput(f"{data / split} does not exist; run `python -m stages.prepare` first")
    return Dataset.load_from_disk(str(data / split), keep_in_memory=True)


def read_task(data: Path) -> Task:
    """The task that the splits were prepared for."""
    return TASK.validate_json((data / "task.json").read_text(encoding="utf8"))


def fingerprint_splits(splits: Mapping[str, Dataset]) -> str:
    """Fingerprint of the content: 16 hex digits of a SHA-256 over all columns, the same everywhere."""
    digest = hashlib.sha256()
    for name in sorted(splits):
        columns = [c for c in COLUMNS if c in splits[name].column_names]
        digest.update(f"{name} {columns}\n".encode())
        for row in zip(*(splits[name][c] for c in columns), strict=True):
            digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()[:16]
