"""How the model gets there: its hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stages.distillation.objectives.base import LayerObjective, Layers, Side

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.distillation.capture import Batch, Captured
    from stages.models.anatomy import Shape


class Projected(LayerObjective):
    """What compares hidden states, the student's projected by W where the widths differ."""

    def aspects(self, side: Side) -> tuple[str, ...]:
        return ("hidden",)

    def learned(self, student: Shape, teacher: Shape, labels: list) -> nn.Module | None:
        from stages.distillation.distances import projections

        return projections(student, teacher, self.aspects("student"))


class HiddenStates(Projected):
    """Squared distance between hidden states, over the tokens that count, relative to the teacher's own size.

    L = mean_l mean_b  Σ_i |W H_s[l,i] − H_t[l,i]|² / Σ_i |H_t[l,i]|²

    W is learned where the widths differ, and not there where they are equal.

    Source: TinyBERT (Jiao et al. 2020), eq. 9, at every layer as in MaKD; first token only: PKD (Sun et al. 2019),
    eq. 7; the normalization is ours: every layer starts on the same scale, whatever the width of its activations.
    """

    tokens: Literal["all", "first"] = "all"
    """`first` compares the [CLS] position only."""
    normalize: Literal["teacher", "none"] = "teacher"
    """`none` divides by the number of entries instead of the teacher's squared norm."""

    def pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        if self.tokens == "first" and (student.causal or teacher.causal):
            raise ValueError(
                "tokens `first` compares what sums a text up, which a decoder's first token does not; use all"
            )
        return super().pairs(student, teacher)

    def distances(self, student: Captured, teacher: Captured, batch: Batch, pair: tuple[int, int], learned) -> Tensor:
        """Shapes: hidden (batch, tokens, width)."""
        from stages.distillation.distances import projected, squared_distance

        part = slice(0, 1) if self.tokens == "first" else slice(None)
        ours = projected(student["hidden", pair[0]][:, part], learned, "hidden")
        return squared_distance(ours, teacher["hidden", pair[1]][:, part], batch.counted[:, part], self.normalize)


class Embedding(HiddenStates):
    """The same distance between what the embeddings give to the first layer.

    Source: TinyBERT (Jiao et al. 2020), eq. 10.
    """

    layers: Literal["embeddings"] = "embeddings"
    """Nothing to choose."""

    def pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        return [(0, 0)]


class HiddenCosine(Projected):
    """Angle between hidden states, over the tokens that count.

    L = mean_l mean_b 1/n_b Σ_{i ≤ n_b} 1 − cos(W H_s[l,i], H_t[l,i])

    W is learned where the widths differ, and not there where they are equal.

    Source: DistilBERT (Sanh et al. 2019), section 2, at the last layer.
    """

    layers: Layers = "last"
    """Which layers are compared."""

    def distances(self, student: Captured, teacher: Captured, batch: Batch, pair: tuple[int, int], learned) -> Tensor:
        """Shapes: hidden (batch, tokens, width)."""
        from stages.distillation.distances import projected, unit

        ours = unit(projected(student["hidden", pair[0]], learned, "hidden"))
        # 1 − cos = ½ |a − b|² for unit vectors: no difference of nearly equal numbers
        squares = (ours - unit(teacher["hidden", pair[1]])).square().sum(-1) / 2
        return (squares * batch.counted).sum(1) / batch.counted.sum(1)
