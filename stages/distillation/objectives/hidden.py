"""How the model gets there: its hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stages.distillation.objectives.base import Layers, Objective, selected

if TYPE_CHECKING:
    from torch import Tensor

    from stages.distillation.capture import Aspect, Batch, Captured


class HiddenStates(Objective):
    """Squared distance between hidden states, over real tokens, relative to the teacher's own size.

    L = mean_l mean_b  Σ_i |H_s[l,i] − H_t[l,i]|² / Σ_i |H_t[l,i]|²

    Source: TinyBERT (Jiao et al. 2020), eq. 9, at every layer as in MaKD; the normalization is ours: every layer
    starts on the same scale, whatever the width of its activations.
    """

    level = "layer"
    layers: Layers = "all"
    """Which layers are compared."""
    tokens: Literal["all", "first"] = "all"
    """`first` compares the [CLS] position only (PKD, Sun et al. 2019)."""
    normalize: Literal["teacher", "none"] = "teacher"
    """`none` divides by the number of entries instead of the teacher's squared norm."""

    def compared(self, depth: int) -> list[int]:
        return selected(self.layers, depth)

    def aspects(self, depth: int) -> set[Aspect]:
        return {("hidden", layer) for layer in self.compared(depth)}

    def __call__(self, student: Captured, teacher: Captured, batch: Batch) -> Tensor:
        """Shapes: hidden (batch, tokens, width)."""
        from stages.distillation.distances import squared_distance

        layers = [layer for layer in self.compared(student.depth) if batch.takes(layer)]
        first = slice(0, 1) if self.tokens == "first" else slice(None)
        total = 0.0
        for layer in layers:
            ours, theirs = student["hidden", layer][:, first], teacher["hidden", layer][:, first]
            total = total + squared_distance(ours, theirs, batch.mask[:, first], self.normalize).mean()
        return total / len(layers)
