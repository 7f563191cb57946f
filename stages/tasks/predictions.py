"""What a model said to every validation example, as a table beside its scores: what models are compared by, in pairs.

One row per example in the split's order: `label`, then `logit_0`, `logit_1`, ... (a regression has `logit_0` alone). Of
text: `tokens` that were asked for, and of these the sums `loss` (−log q(y), nats) and `hits`.
"""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from stages.settings import BadInput
from stages.tasks import Kind

if TYPE_CHECKING:
    from numpy import ndarray


def write_predictions(path: Path, logits: "ndarray", labels: "ndarray", kind: Kind = "classification") -> None:
    """Numbers in the fewest digits that give the same float back.

    Args:
        logits: (examples, outputs); of text what is more than two is left out.
        labels: (examples,); both as for `stages.tasks.metrics.scores`.
    """
    if kind == "causal_lm":
        names, logits = ["tokens", "loss", "hits"], logits[:, :2]
    else:
        names = ["label", *(f"logit_{i}" for i in range(logits.shape[1]))]
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([str(label), *map(str, row)] for label, row in zip(labels, logits, strict=True))


def read_predictions(path: Path) -> tuple["ndarray", "ndarray"]:
    """Logits (examples, outputs) float32 and labels (examples,), int64 or float32, as they were written.

    Raises:
        BadInput: the file is not there.
    """
    import pandas as pd

    if not path.is_file():
        raise BadInput(f"{path} does not exist; run `dvc repro` to score that model again")
    table = pd.read_csv(path)
    labels = table.pop(table.columns[0]).to_numpy()
    return table.to_numpy("float32"), labels.astype("float32") if labels.dtype.kind == "f" else labels
