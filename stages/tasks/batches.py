"""Padded batches of a split, in order: for calibration and prediction, where no Trainer is needed."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset, List
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from stages.progress import track
from stages.schema.task import IGNORED
from stages.tasks.predictions import Predictions

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "labels")


def make_collator(split: Dataset, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
    """Pads rows to the longest, (batch, tokens); labels that are token ids with IGNORED."""
    if isinstance(split.features.get("labels"), List):
        return DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
    return DataCollatorWithPadding(tokenizer)


def iterate_batches(
    split: Dataset, tokenizer: PreTrainedTokenizerBase, size: int, title: str
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Rows sorted by length, `size` at a time, padded to the longest: their indices and tensors (batch, tokens)."""
    collate = make_collator(split, tokenizer)
    order = sorted(range(len(split)), key=split["length"].__getitem__)
    columns = split.select_columns([name for name in INPUTS if name in split.column_names])
    for start in track(range(0, len(order), size), title):
        rows = order[start : start + size]
        yield rows, dict(collate([columns[i] for i in rows]))


def predict_logits(
    model: PreTrainedModel, split: Dataset, tokenizer: PreTrainedTokenizerBase, size: int, title: str
) -> Predictions:
    """Logits and labels of a split, in its order; no targets (0,) where it has no labels."""
    logits = np.zeros((len(split), model.config.num_labels), np.float32)
    model.eval()
    with torch.inference_mode():
        for rows, batch in iterate_batches(split, tokenizer, size, title):
            batch.pop("labels", None)
            out = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
            logits[rows] = out.logits.float().cpu().numpy()
    labels = split["labels"] if "labels" in split.column_names else []
    return Predictions(values=logits, targets=np.asarray(labels))
