"""Padded batches of a split, in order: for calibration and prediction, where no Trainer is needed."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from stages.tasks import IGNORED

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "labels")


def collator(split: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> "Callable[[list[dict]], dict[str, Tensor]]":
    """Pads rows to the longest, (batch, tokens); labels that are token ids with IGNORED."""
    from datasets import List
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

    per_token = isinstance(split.features.get("labels"), List)
    return (
        DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
        if per_token
        else DataCollatorWithPadding(tokenizer)
    )


def batches(
    split: "Dataset", tokenizer: "PreTrainedTokenizerBase", size: int, title: str
) -> Iterator[tuple[list[int], dict[str, "Tensor"]]]:
    """Rows sorted by length, `size` at a time, padded to the longest: their indices and tensors (batch, tokens)."""
    from tqdm import tqdm

    collate = collator(split, tokenizer)
    order = sorted(range(len(split)), key=split["length"].__getitem__)
    columns = split.select_columns([name for name in INPUTS if name in split.column_names])
    for start in tqdm(range(0, len(order), size), desc=title, unit="batch"):
        rows = order[start : start + size]
        yield rows, dict(collate([columns[i] for i in rows]))


def predict(
    model: "PreTrainedModel", split: "Dataset", tokenizer: "PreTrainedTokenizerBase", size: int, title: str
) -> tuple["np.ndarray", "np.ndarray"]:
    """Logits (rows, outputs) and labels (rows,) of a split, in its order; no labels (0,) where it has none."""
    import numpy as np
    import torch

    logits = np.zeros((len(split), model.config.num_labels), np.float32)
    model.eval()
    with torch.inference_mode():
        for rows, batch in batches(split, tokenizer, size, title):
            batch.pop("labels", None)
            out = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
            logits[rows] = out.logits.float().cpu().numpy()
    return logits, np.asarray(split["labels"] if "labels" in split.column_names else [])
