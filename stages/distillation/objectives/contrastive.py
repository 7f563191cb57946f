"""Which examples belong together: the student's summary of a text against the teacher's, among those of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.distillation.objectives.base import Objective, Side

if TYPE_CHECKING:
    from torch import Tensor

    from stages.distillation.capture import Batch, Captured
    from stages.distillation.memory import Memory
    from stages.models.anatomy import Shape


class Contrastive(Objective):
    """The first token's last hidden state must be told by the teacher's, among those of examples of other classes.

    L = mean_b ½ Σ_{(a,c) ∈ {(s,t),(t,s)}} −log  e(a_b, c_b) / (e(a_b, c_b) + Σ_{j ∈ N_b} e(a_b, m^c_j)),
    e(a, c) = exp(a·c / τ)

    s, t: projections of the two states to `width`, of length 1; m: the memory's last projections of all examples;
    N_b: examples of other classes, drawn anew each time. After each batch m ← `momentum`·m + (1 − `momentum`)·(its
    new projection), to length 1. Its floor is not 0.

    Source: CRD (Tian et al. 2020) with its memory and both directions, in the softmax form of CoDIR (Sun et al. 2020),
    eq. 3: CRD's own form needs a constant Z, which is wrong as soon as the memory has filled; first token and negatives
    of other classes: ILD (Wang et al. 2023). The positive is the current projection (CRD's code: the memory's): ours.
    """

    level = "layer"
    width: Annotated[int, Field(ge=1)] = 128
    """Dimensions of the projections."""
    negatives: Annotated[int, Field(ge=1)] = 100
    """N: examples of other classes that each is told from."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """τ: lower makes near negatives count more."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the old projection that the memory keeps."""

    def pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        if student.causal or teacher.causal:
            raise ValueError(
                "compares what sums a text up, its first token, which a decoder's does not; use hidden_cosine"
            )
        return [(student.depth, teacher.depth)]

    def aspects(self, side: Side) -> tuple[str, ...]:
        return ("hidden",)

    def learned(self, student: Shape, teacher: Shape, labels: list) -> Memory:
        from stages.distillation.memory import Memory

        return Memory(student.widths["hidden"], teacher.widths["hidden"], self.width, labels)

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned: Memory) -> Tensor:
        """Shapes: hidden (batch, tokens, width); batch.index (batch,): places in the training split."""
        (ours, theirs) = self.pairs(student.shape, teacher.shape)[0]
        s, t = learned.project(student["hidden", ours][:, 0], teacher["hidden", theirs][:, 0])
        chosen = learned.draw(batch.index, self.negatives)
        value = (self._told(s, t, learned.teachers[chosen]) + self._told(t, s, learned.students[chosen])) / 2
        learned.remember(batch.index, s.detach(), t.detach(), self.momentum)
        return value

    def _told(self, anchor: Tensor, positive: Tensor, others: Tensor) -> Tensor:
        """Shapes: anchor, positive (batch, width), others (batch, N, width)."""
        import torch

        near = (anchor * positive).sum(-1, keepdim=True)
        far = (others @ anchor.unsqueeze(-1)).squeeze(-1)
        logits = torch.cat([near, far], -1) / self.temperature
        return (logits.logsumexp(-1) - logits[:, 0]).mean()
