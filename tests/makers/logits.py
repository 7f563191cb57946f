"""Random logits of a student and its teacher, several rows for an example, and the objectives that compare logits."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from stages.objectives import (
    AKL,
    JSD,
    KL,
    TVD,
    Hard,
    LogitMSE,
    Objective,
    Ranking,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
)
from stages.objectives.inputs import Batch, Captured

EXAMPLES = torch.tensor([0, 0, 0, 1, 2, 2])
"""The example that each row of logits belongs to."""
PAPER_RANKING = {"union": "concat", "epsilon": "fixed", "softness": 1.0}
"""The ranking loss as RLKD has it, but for the weight."""
TEMPERATURE = 1.5
DIVERGENCES: dict[str, Objective] = {
    "kl": KL(temperature=TEMPERATURE),
    "reverse_kl": ReverseKL(temperature=TEMPERATURE),
    "jsd": JSD(temperature=TEMPERATURE, beta=0.3),
    "skew_kl": SkewKL(temperature=TEMPERATURE, alpha=0.2),
    "skew_reverse_kl": SkewReverseKL(temperature=TEMPERATURE, alpha=0.2),
    "tvd": TVD(temperature=TEMPERATURE),
    "akl": AKL(temperature=TEMPERATURE, mu=0.6),
}
"""By the name of the setting."""
TEACHER_TERMS: list[Objective] = [
    *DIVERGENCES.values(),
    LogitMSE(),
    KL(overlap=3),
    Ranking(k=3),
    Ranking(k=3, **PAPER_RANKING),
]
"""All that compare with the teacher's logits; they are 0 at the teacher."""
LOGIT_TERMS: list[Objective] = [*TEACHER_TERMS, Hard()]


def wrap_logits(logits: Tensor) -> Captured:
    """Logits as a model's output, with no inner state."""
    return cast(Captured, SimpleNamespace(logits=logits, shape=None))


def make_logits(classes: int = 12, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Of a student that is not far from its teacher, and the teacher's; (6, classes) in float64."""
    draw = torch.Generator().manual_seed(seed)
    teacher = scale * torch.randn(6, classes, generator=draw, dtype=torch.float64)
    return teacher + torch.randn(6, classes, generator=draw, dtype=torch.float64), teacher


def make_row_batch(labels: Tensor | None = None) -> Batch:
    """Of three examples that have three rows of logits, one, and two."""
    return Batch(mask=torch.ones(3, 4), labels=torch.zeros(6) if labels is None else labels, rows=EXAMPLES)


def make_single_batch() -> Batch:
    """Of one example with one row of logits."""
    return Batch(mask=torch.ones(1, 1), labels=torch.zeros(1))


def average_rows(values: list[float]) -> float:
    """Mean over examples of the mean over their rows."""
    rows = list(zip(values, EXAMPLES.tolist(), strict=True))
    return float(np.mean([np.mean([value for value, example in rows if example == b]) for b in range(3)]))


def truncate_logits(logits: np.ndarray, k: int) -> np.ndarray:
    """Rows (rows, classes) whose k largest stay and whose others share their mass, one by one in float64."""
    truncated = np.empty(logits.shape)
    for row, z in enumerate(logits.astype(np.float64)):
        others = np.argsort(z)[:-k]
        truncated[row] = z
        truncated[row, others] = np.log(np.mean(np.exp(z[others] - z.max()))) + z.max()
    return truncated
