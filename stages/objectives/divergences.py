"""Divergences between the student's output distribution q and the teacher's p.

p = softmax(z_t / T), q = softmax(z_s / T), for each row: an example, or a predicted token of one. Each objective
differs in where an error weighs more: where the teacher is sure (`kl`), where the student is (`reverse_kl`), or both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from stages.objectives.base import Objective, Ramp, require_classes, value_at

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.objectives.inputs import Batch, Captured, Shape

Between = Annotated[float, Field(gt=0, lt=1)]


class Divergence(Objective):
    """L = T² · mean_b D(p, q), with a divergence D of its own.

    Source: Hinton et al. 2015, section 2 (the factor T² keeps the gradient's size independent of T).
    """

    gaussian: ClassVar[bool] = False
    """True where D of two Gaussians of unit variance, as a regression's outputs can be read, is ½ (z_t − z_s)²."""

    temperature: Annotated[float, Field(gt=0)] | Ramp = 2.0
    """T: above 1 the small probabilities count more; language models are mostly distilled at 1; or a ramp {start, end,
    until, shape}, both ends above 0."""
    overlap: Annotated[int, Field(ge=1)] | None = None
    """k: a row's weight is the share of its k most probable classes that teacher and student have in common, so that
    `ranking` comes first where they disagree (RLKD's dynamic form); null: every row has weight 1."""

    @property
    def required_top_k(self) -> int:
        return self.overlap or 0

    def learned_modules(self, student: Shape, teacher: Shape, labels: list[float]) -> None:
        if not self.gaussian:
            require_classes(labels)

    def row_divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        """D of each row from its softened logits; (rows, classes) twice, float32 or better -> (rows,)."""
        raise NotImplementedError

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned: nn.Module | None = None) -> Tensor:
        """Shapes: logits (rows, classes)."""
        from stages.objectives.row_chunks import map_row_chunks
        from stages.objectives.top_k import overlap_rate

        if student.logits.shape[-1] == 1:
            squares = (teacher.logits.float() - student.logits.float()).square().squeeze(-1)
            return batch.mean_over_examples(squares) / 2
        t = value_at(self.temperature, batch.progress)
        values = map_row_chunks(
            lambda ours, theirs: self.row_divergences(ours / t, theirs / t), student.logits, teacher.logits
        )
        if self.overlap:
            values = values * overlap_rate(student.logits, teacher.logits, self.overlap)
        return t**2 * batch.mean_over_examples(values)


class KL(Divergence):
    """Divergence of the student's softened output q from the teacher's p: knowledge distillation's own.

    D = KL(p‖q) = Σ_c p_c (log p_c − log q_c)

    A regression has one output z; read as the mean of a Gaussian of unit variance, KL(p‖q) = ½ (z_t − z_s)².

    Source: Hinton et al. 2015, section 2.
    """

    gaussian = True

    def row_divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        from stages.objectives.distances import kl_divergence

        return kl_divergence(student, teacher)


class ReverseKL(Divergence):
    """Divergence of the teacher's softened output p from the student's q: the student gives no probability where p has
    none.

    D = KL(q‖p) = Σ_c q_c (log q_c − log p_c);    of a regression ½ (z_t − z_s)²

    Source: MiniLLM (Gu et al. 2024), eq. 1, on the data's own text in place of the student's.
    """

    gaussian = True

    def row_divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        return _kl(student.log_softmax(-1), teacher.log_softmax(-1))


class JSD(Divergence):
    """Generalized Jensen–Shannon divergence: both from their mixture m.

    D = β KL(p‖m) + (1−β) KL(q‖m),    m = βp + (1−β)q

    Near 0 it is β·KL(p‖q), near 1 (1−β)·KL(q‖p).

    Source: GKD (Agarwal et al. 2024), eq. 1.
    """

    beta: Between = 0.5
    """β: the teacher's share of the mixture, and of the divergence."""

    def row_divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
        log_m = _log_mixture(log_p, log_q, self.beta)
        return self.beta * _kl(log_p, log_m) + (1 - self.beta) * _kl(log_q, log_m)


class SkewKL(Divergence):
    """KL from a student that is mixed with a little of the teacher, so that no ratio of the two is ever extreme.

    D = KL(p ‖ αp + (1−α)q)

    Source: DistiLLM (Ko et al. 2024), eq. 4.
    """

    alpha: Between = 0.1
    """α: the teacher's share of the mixture."""

    def row_divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
        return _kl(log_p, _log_mixture(log_p, log_q, self.alpha))


class SkewReverseKL(Divergence):
    """Reverse KL from a teacher that is mixed with a little of the student.

    D = KL(q ‖ (1−α)p + αq)

    Source: DistiLLM (Ko et al. 2024), section 3.1.
    """

    alpha: Between = 0.1
    """α: the student's share of the mixture."""

    def row_divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
        return _kl(log_q, _log_mixture(log_q, log_p, self.alpha))


class TVD(Divergence):
    """Total variation distance: the largest difference in probability that the two give to any event.

    D = ½ Σ_c |p_c − q_c|

    Source: f-distill (Wen et al. 2023), table 1.
    """

    def row_divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (teacher.softmax(-1) - student.softmax(-1)).abs().sum(-1) / 2


class AKL(Divergence):
    """Adaptive KL: KL where the teacher's likely classes are wrong, reverse KL where its unlikely ones are, in that
    proportion.

    D = g_h/(g_h+g_t) KL(p‖q) + g_t/(g_h+g_t) KL(q‖p),    g = Σ_c |p_c − q_c| over head and tail, no gradient

    The head: the fewest classes that hold a mass of μ under p. It costs a sort of every row.

    Source: AKL (Wu et al. 2024), section 4; that the class which passes μ is in the head is ours.
    """

    mu: Between = 0.5
    """μ: the teacher's mass in the head."""

    def row_divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
        p, order = log_p.exp().sort(-1, descending=True)
        gaps = (p - log_q.detach().exp().gather(-1, order)).abs()
        head = (gaps * (p.cumsum(-1) - p < self.mu)).sum(-1)
        share = head / gaps.sum(-1).clamp_min(1e-12)
        return share * _kl(log_p, log_q) + (1 - share) * _kl(log_q, log_p)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p‖q) of log-probabilities, (rows, classes) twice -> (rows,)."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _log_mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """log(share·a + (1 − share)·b)."""
    from math import log

    import torch

    return torch.logaddexp(log_a + log(share), log_b + log(1 - share))
