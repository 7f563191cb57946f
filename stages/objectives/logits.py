"""Objectives on labels and on logits. Divergences of output distributions are in `divergences`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.objectives.base import Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.objectives.inputs import Batch, Captured


class Hard(Objective):
    """Cross-entropy with the labels; squared error where the task is a regression.

    L = mean_b −log q_b[y_b]        or        L = mean_b (z_b − y_b)²
    """

    uses_teacher = False

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned: nn.Module | None = None) -> Tensor:
        """Shapes: logits (rows, classes), labels (rows,)."""
        from torch.nn.functional import cross_entropy

        from stages.objectives.row_chunks import map_row_chunks

        if student.logits.shape[-1] == 1:
            return batch.mean_over_examples((student.logits.float().squeeze(-1) - batch.labels.float()).square())
        return batch.mean_over_examples(
            map_row_chunks(lambda z, y: cross_entropy(z, y, reduction="none"), student.logits, batch.labels),
        )


class LogitMSE(Objective):
    """Squared distance between logits.

    L = mean_b 1/C Σ_c (z_s − z_t)²

    Source: Ba & Caruana 2014, eq. 1.
    """

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned: nn.Module | None = None) -> Tensor:
        """Shapes: logits (rows, classes)."""
        from stages.objectives.row_chunks import map_row_chunks

        rows = map_row_chunks(lambda s, t: (s - t).square().mean(-1), student.logits, teacher.logits)
        return batch.mean_over_examples(rows)
