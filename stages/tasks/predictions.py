"""A model's predictions on the validation split, as a table beside its scores: paired tests of models need them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy import ndarray

from stages.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """One row per example, in the split's order. What the rows mean depends on the kind of the task (scorers.py)."""

    values: ndarray
    """(examples, values), float32: logits of classes; the value of a regression; of text the sums over an example's
    tokens of −log q(y), in nats, and of the correct predictions."""
    targets: ndarray
    """(examples,): class ids, int64; values, float32; of text the number of predicted tokens, int64."""


def write_predictions(path: Path, predictions: Predictions, columns: Sequence[str]) -> None:
    """Numbers in the fewest digits that give the same float back.

    Args:
        columns: names of the target and of the values.
    """
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        rows = zip(predictions.targets, predictions.values, strict=True)
        writer.writerows([str(target), *map(str, values)] for target, values in rows)


def read_predictions(path: Path) -> Predictions:
    """Predictions as they were written.

    Raises:
        BadInput: the file is not there.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist; run `dvc repro` to score that model again")
    table = pd.read_csv(path)
    targets = table.pop(table.columns[0]).to_numpy()
    if targets.dtype.kind == "f":
        targets = targets.astype(np.float32)
    return Predictions(values=table.to_numpy(np.float32), targets=targets)
