"""Training data with augmented sentences, which have no gold labels: the teacher labels them."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from stages.errors import BadInput
from stages.models.loading import load_checkpoint
from stages.tasks.batches import predict_logits
from stages.tasks.splits import read_split


def read_training_split(
    data: Path,
    augmented: bool,
    label: Callable[[ndarray], list[float]],
    teacher: Path,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
) -> Dataset:
    """`train`; if asked for, followed by `augmented` with the teacher's labels.

    Args:
        label: labels, (examples,), of the teacher's logits, (examples, outputs).
        batch_size: examples per forward pass of the teacher; changes the speed only.

    Raises:
        BadInput: there is no augmented split.
    """
    train = read_split(data, "train")
    if not augmented:
        return train
    if not (data / "augmented").is_dir():
        raise BadInput(
            "distill.augmented is true, but there is no augmented split; set prepare.augment, say to {copies: 10}"
        )
    made = read_split(data, "augmented")
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    predicted = predict_logits(
        load_checkpoint(teacher).to(device), made, tokenizer, batch_size, "distill: the teacher's labels"
    )
    labels = label(predicted.values)
    return concatenate_datasets([train, made.add_column("labels", labels, feature=train.features["labels"])])
