"""Contrastive distillation: the student's summary of a text against the teacher's, among those of other texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.objectives.base import Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.objectives.inputs import Batch, Captured, Shape, Side
    from stages.objectives.memory_bank import MemoryBank


class Contrastive(Objective):
    """The first token's last hidden state must match the teacher's, among those of examples of other classes.

    L = mean_b ½ Σ_{(a,c) ∈ {(s,t),(t,s)}} −log  e(a_b, c_b) / (e(a_b, c_b) + Σ_{j ∈ N_b} e(a_b, m^c_j)),
    e(a, c) = exp(a·c / τ)

    s, t: projections of the two states to `width`, of length 1; m: the memory bank's last projections of all examples;
    N_b: examples of other classes, drawn anew each time. After each batch m ← `momentum`·m + (1 − `momentum`)·(its
    new projection), to length 1. Its floor is not 0.

    Source: CRD (Tian et al. 2020) with its memory bank and both directions, in the softmax form of CoDIR (Sun et al.
    2020), eq. 3: CRD's own form needs a constant Z, which is wrong as soon as the bank has filled; first token and
    negatives of other classes: ILD (Wang et al. 2023). The positive is the current projection (CRD's code: the bank's):
    ours.
    """

    level = "layer"
    width: Annotated[int, Field(ge=1)] = 128
    """Dimensions of the projections."""
    negatives: Annotated[int, Field(ge=1)] = 100
    """N: examples of other classes that each example is contrasted with."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """τ: lower makes near negatives count more."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the old projection that the memory bank keeps."""

    def layer_pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        if student.causal or teacher.causal:
            raise ValueError(
                "compares what sums a text up, its first token, which a decoder's does not; use hidden_cosine"
            )
        return [(student.depth, teacher.depth)]

    def captured_aspects(self, side: Side) -> tuple[str, ...]:
        return ("hidden",)

    def learned_modules(self, student: Shape, teacher: Shape, labels: list[float]) -> MemoryBank:
        from stages.objectives.memory_bank import MemoryBank

        return MemoryBank(student.widths["hidden"], teacher.widths["hidden"], self.width, labels)

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned: nn.Module | None = None) -> Tensor:
        """Shapes: hidden (batch, tokens, width); batch.index (batch,): indices in the training split."""
        from stages.objectives.memory_bank import MemoryBank

        assert isinstance(learned, MemoryBank) and batch.index is not None, (
            "made by learned_modules; read by the trainer"
        )
        (ours, theirs) = self.layer_pairs(student.shape, teacher.shape)[0]
        s, t = learned.project(student["hidden", ours][:, 0], teacher["hidden", theirs][:, 0])
        drawn = learned.draw_negatives(batch.index, self.negatives)
        value = (self._loss(s, t, learned.teachers[drawn]) + self._loss(t, s, learned.students[drawn])) / 2
        learned.update(batch.index, s.detach(), t.detach(), self.momentum)
        return value

    def _loss(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """Shapes: anchor, positive (batch, width), negatives (batch, N, width) -> a scalar."""
        import torch

        near = (anchor * positive).sum(-1, keepdim=True)
        far = (negatives @ anchor.unsqueeze(-1)).squeeze(-1)
        logits = torch.cat([near, far], -1) / self.temperature
        return (logits.logsumexp(-1) - logits[:, 0]).mean()
