"""What the model says: its answers and its logits. Divergences of distributions are in `divergences`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.distillation.objectives.base import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from stages.distillation.capture import Batch, Captured


class Hard(Objective):
    """Cross-entropy with the labels; squared error where the task is a regression.

    L = mean_b −log q_b[y_b]        or        L = mean_b (z_b − y_b)²
    """

    compares = False

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned=None) -> Tensor:
        """Shapes: logits (rows, classes), labels (rows,)."""
        from torch.nn.functional import cross_entropy

        from stages.distillation.rows import by_rows

        if student.logits.shape[-1] == 1:
            return batch.mean((student.logits.float().squeeze(-1) - batch.labels.float()).square())
        return batch.mean(
            by_rows(lambda z, y: cross_entropy(z, y, reduction="none"), student.logits, batch.labels),
        )


class LogitMSE(Objective):
    """Squared distance between the outputs before the softmax.

    L = mean_b 1/C Σ_c (z_s − z_t)²

    Source: Ba & Caruana 2014, eq. 1.
    """

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned=None) -> Tensor:
        """Shapes: logits (rows, classes)."""
        from stages.distillation.rows import by_rows

        return batch.mean(by_rows(lambda s, t: (s - t).square().mean(-1), student.logits, teacher.logits))
