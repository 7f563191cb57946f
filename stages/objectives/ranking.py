"""RLKD's ranking loss: the order in which the most probable classes are ranked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.objectives.base import Objective, require_classes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.objectives.inputs import Batch, Captured, Shape


class Ranking(Objective):
    """The student must rank the peaks of its distribution as the teacher does; added to any divergence.

    L = mean_b 1 − Spearman(r(z_s[U] / ε), r(z_t[U] / ε)),    U = topk(p) ∪ topk(q),    r: soft ranks

    Added to `kl` or another divergence; in RLKD's dynamic form that one's `overlap` is k. The order of two classes is
    right or wrong, with nothing between that a gradient could follow; it takes three.

    Source: RLKD (Peng & Zhang 2025). Its own form is weight 2, union `concat`, epsilon `fixed`; ours counts each
    class once and has an ε on the scale of the row's logits: with a fixed one nothing is learned of a row whose
    neighboring logits differ by more than it (twice it where both are ranked twice), be they in the wrong order.
    """

    k: Annotated[int, Field(ge=2)] = 10
    """Classes of either model that are ranked; RLKD: 15 for pre-training, 10 to 15 alone, 5 for mixed tasks."""
    union: Literal["exact", "concat"] = "exact"
    """`concat`: a class among the top k of both is ranked twice."""
    epsilon: Literal["relative", "fixed"] = "relative"
    """`relative`: ε is `softness` times the mean distance between neighbors of the row's ranked logits, for each model
    its own. `fixed`: ε is `softness`."""
    softness: Annotated[float, Field(gt=0)] = 1.0
    """Larger: softer ranks, in the limit the logits themselves; smaller: harder, more of them without a gradient."""

    @property
    def required_top_k(self) -> int:
        return self.k

    def learned_modules(self, student: Shape, teacher: Shape, labels: list[float]) -> None:
        require_classes(labels)

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned: nn.Module | None = None) -> Tensor:
        """Shapes: logits (rows, classes)."""
        from stages.objectives.soft_rank import union_of_top_k

        index, real = union_of_top_k(student.logits, teacher.logits, self.k, self.union == "exact")
        ours, theirs = (self._unit_ranks(model.logits.gather(-1, index), real) for model in (student, teacher))
        # 1 − cos = ½ |a − b|² for unit vectors: no difference of nearly equal numbers
        return batch.mean_over_examples((ours - theirs).square().sum(-1)) / 2

    def _unit_ranks(self, logits: Tensor, real: Tensor) -> Tensor:
        """Soft ranks of the real entries, centered, at length 1; (rows, n), 0 elsewhere."""
        import torch
        from torch.nn.functional import normalize

        from stages.objectives.soft_rank import soft_rank

        z = logits.to(torch.promote_types(logits.dtype, torch.float32))
        ranks = soft_rank(z / (self.softness * self._unit(z, real)), real)
        mean = (ranks * real).sum(-1, keepdim=True) / real.sum(-1, keepdim=True)
        return normalize((ranks - mean) * real, dim=-1, eps=1e-3)

    def _unit(self, z: Tensor, real: Tensor) -> Tensor | float:
        """The unit of softness; (rows, 1)."""
        import torch

        if self.epsilon == "fixed":
            return 1.0
        highest = z.masked_fill(~real, -torch.inf).amax(-1, keepdim=True)
        lowest = z.masked_fill(~real, torch.inf).amin(-1, keepdim=True)
        distance = (highest - lowest) / (real.sum(-1, keepdim=True) - 1).clamp_min(1)
        return torch.where(distance > 0, distance, 1.0)
