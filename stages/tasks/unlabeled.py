"""Text without gold labels, as training data: the teacher says what it is."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stages.settings import BadInput
from stages.tasks.splits import read_split, read_task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def training_split(
    data: Path, augmented: bool, teacher: Path, tokenizer: "PreTrainedTokenizerBase", size: int
) -> "Dataset":
    """`train`; where asked for, followed by `augmented` with the teacher's classes or values as labels.

    Args:
        size: examples per forward pass of the teacher; changes the speed only.

    Raises:
        BadInput: asked for, but never made.
    """
    train = read_split(data, "train")
    if not augmented:
        return train
    if not (data / "augmented").is_dir():
        raise BadInput(
            "distill.augmented is true, but there is no augmented split; set prepare.augment, say to {copies: 10}"
        )
    from datasets import concatenate_datasets

    made = read_split(data, "augmented")
    kind = train.features["labels"]
    labels = _said_by(teacher, made, tokenizer, size, classes=read_task(data).kind == "classification")
    return concatenate_datasets([train, made.add_column("labels", labels, feature=kind)])


def _said_by(
    teacher: Path, split: "Dataset", tokenizer: "PreTrainedTokenizerBase", size: int, *, classes: bool
) -> list:
    """The teacher's class ids, or values."""
    import torch

    from stages.models.base import load
    from stages.tasks.batches import predict

    here = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    logits, _ = predict(load(teacher).to(here), split, tokenizer, size, "the teacher's labels")
    return (logits.argmax(-1) if classes else logits[:, 0]).tolist()
