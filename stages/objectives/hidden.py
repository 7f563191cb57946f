"""Hidden-state objectives: the outputs of the layers, and of the embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stages.objectives.base import LayerMap, LayerObjective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.objectives.inputs import Batch, Captured, Shape, Side


class HiddenObjective(LayerObjective):
    """Compares hidden states, the student's projected by W where the widths differ."""

    def captured_aspects(self, side: Side) -> tuple[str, ...]:
        return ("hidden",)

    def learned_modules(self, student: Shape, teacher: Shape, labels: list[float]) -> nn.Module | None:
        from stages.objectives.distances import build_projections

        return build_projections(student, teacher, self.captured_aspects("student"))


class HiddenStates(HiddenObjective):
    """Squared distance between hidden states, over the tokens that count, relative to the teacher's own size.

    L = mean_l mean_b  Σ_i |W H_s[l,i] − H_t[l,i]|² / Σ_i |H_t[l,i]|²

    W is learned where the widths differ, and absent where they are equal.

    Source: TinyBERT (Jiao et al. 2020), eq. 9, at every layer as in MaKD; first token only: PKD (Sun et al. 2019),
    eq. 7; the normalization is ours: every layer starts on the same scale, whatever the width of its activations.
    """

    tokens: Literal["all", "first"] = "all"
    """`first` compares the [CLS] position only."""
    normalize: Literal["teacher", "none"] = "teacher"
    """`none` divides by the number of entries instead of the teacher's squared norm."""

    def layer_pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        if self.tokens == "first" and (student.causal or teacher.causal):
            raise ValueError(
                "tokens `first` compares what sums a text up, which a decoder's first token does not; use all"
            )
        return super().layer_pairs(student, teacher)

    def pair_distances(
        self, student: Captured, teacher: Captured, batch: Batch, pair: tuple[int, int], learned: nn.Module | None
    ) -> Tensor:
        """Shapes: hidden (batch, tokens, width)."""
        from stages.objectives.distances import project, squared_distance

        part = slice(0, 1) if self.tokens == "first" else slice(None)
        ours = project(student["hidden", pair[0]][:, part], learned, "hidden")
        return squared_distance(ours, teacher["hidden", pair[1]][:, part], batch.counted[:, part], self.normalize)


class Embedding(HiddenStates):
    """Squared distance between the embeddings' outputs, which the first layer reads, relative to the teacher's size.

    L = mean_b  Σ_i |W E_s[i] − E_t[i]|² / Σ_i |E_t[i]|²

    Source: TinyBERT (Jiao et al. 2020), eq. 10.
    """

    layers: Literal["embeddings"] = "embeddings"  # type: ignore[assignment]  # there is no layer to choose
    """Always the embeddings."""

    def layer_pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        return [(0, 0)]


class HiddenCosine(HiddenObjective):
    """Cosine distance between hidden states, over the tokens that count.

    L = mean_l mean_b 1/n_b Σ_{i ≤ n_b} 1 − cos(W H_s[l,i], H_t[l,i])

    W is learned where the widths differ, and absent where they are equal.

    Source: DistilBERT (Sanh et al. 2019), section 2, at the last layer.
    """

    layers: LayerMap = "last"
    """Layer mapping."""

    def pair_distances(
        self, student: Captured, teacher: Captured, batch: Batch, pair: tuple[int, int], learned: nn.Module | None
    ) -> Tensor:
        """Shapes: hidden (batch, tokens, width)."""
        from stages.objectives.distances import normalize_vectors, project

        ours = normalize_vectors(project(student["hidden", pair[0]], learned, "hidden"))
        # 1 − cos = ½ |a − b|² for unit vectors: no difference of nearly equal numbers
        squares = (ours - normalize_vectors(teacher["hidden", pair[1]])).square().sum(-1) / 2
        return (squares * batch.counted).sum(1) / batch.counted.sum(1)
