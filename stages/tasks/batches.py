"""Padded batches of a split, in order: for calibration and prediction, where no Trainer is needed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "labels")


def batches(
    split: "Dataset", tokenizer: "PreTrainedTokenizerBase", size: int, title: str
) -> Iterator[tuple[list[int], dict[str, "Tensor"]]]:
    """Rows sorted by length, `size` at a time, padded to the longest: their indices and tensors (batch, tokens)."""
    from tqdm import tqdm
    from transformers import DataCollatorWithPadding

    collate = DataCollatorWithPadding(tokenizer)
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
