"""Where the model looks: its attention distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.distillation.objectives.base import Layers, Objective, selected

if TYPE_CHECKING:
    from torch import Tensor

    from stages.distillation.capture import Aspect, Batch, Captured


class AttentionKL(Objective):
    """Divergence of the student's attention distributions from the teacher's, over heads and real query tokens.

    L = mean_l mean_b 1/(H·n_b) Σ_h Σ_{i ≤ n_b} KL(A_t[l,h,i] ‖ A_s[l,h,i])

    Source: MiniLM (Wang et al. 2020), eq. 3, at every layer as in MaKD (Liu, Mao et al. 2026); the mean over
    layers is ours, so that the weight means the same for every depth.
    """

    level = "layer"
    layers: Layers = "all"
    """Which layers are compared."""

    def compared(self, depth: int) -> list[int]:
        return selected(self.layers, depth)

    def aspects(self, depth: int) -> set[Aspect]:
        return {(name, layer) for layer in self.compared(depth) for name in ("q", "k", "attention")}

    def __call__(self, student: Captured, teacher: Captured, batch: Batch) -> Tensor:
        """Shapes: scores (batch, heads, tokens, tokens), before the softmax."""
        from stages.distillation.distances import divergence

        layers = [layer for layer in self.compared(student.depth) if batch.takes(layer)]
        total = 0.0
        for layer in layers:
            rows = divergence(student.scores(layer, batch), teacher.scores(layer, batch))
            total = total + (rows.mean(1) * batch.mask).sum(1).div(batch.tokens).mean()
        return total / len(layers)
