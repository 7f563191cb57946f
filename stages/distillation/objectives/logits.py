"""What the model says: its output distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.distillation.objectives.base import Objective, Ramp, at

if TYPE_CHECKING:
    from torch import Tensor

    from stages.distillation.capture import Batch, Captured


class Hard(Objective):
    """Cross-entropy with the labels; squared error where the task is a regression.

    L = mean_b −log q_b[y_b]        or        L = mean_b (z_b − y_b)²
    """

    compares = False

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned=None) -> Tensor:
        """Shapes: logits (batch, classes), labels (batch,)."""
        logits = student.logits.float()
        if logits.shape[-1] == 1:
            return batch.mean((logits.squeeze(-1) - batch.labels.float()).square())
        return -batch.mean(logits.log_softmax(-1).gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1))


class KL(Objective):
    """Divergence of the student's softened output q from the teacher's p.

    L = T² · mean_b Σ_c p_c (log p_c − log q_c),    p = softmax(z_t / T), q = softmax(z_s / T)

    A regression has one output z; read as the mean of a Gaussian of unit variance, KL(p‖q) = ½ (z_t − z_s)².

    Source: Hinton et al. 2015, section 2 (the factor T² keeps the gradient's size independent of T).
    """

    temperature: Annotated[float, Field(gt=0)] | Ramp = 2.0
    """T: above 1 the small probabilities count more; or {start, end, until, shape}, both above 0."""

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned=None) -> Tensor:
        """Shapes: logits (batch, classes)."""
        from stages.distillation.distances import divergence

        if student.logits.shape[-1] == 1:
            return batch.mean((teacher.logits.float() - student.logits.float()).square().squeeze(-1)) / 2
        t = at(self.temperature, batch.progress)
        return t**2 * batch.mean(divergence(student.logits.float() / t, teacher.logits.float() / t))


class LogitMSE(Objective):
    """Squared distance between the outputs before the softmax.

    L = mean_b 1/C Σ_c (z_s − z_t)²

    Source: Ba & Caruana 2014, eq. 1.
    """

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned=None) -> Tensor:
        """Shapes: logits (batch, classes)."""
        return batch.mean((student.logits.float() - teacher.logits.float()).square().mean(-1))
