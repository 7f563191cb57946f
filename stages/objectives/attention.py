"""Attention objectives: attention scores and attention maps, and the relations between queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.objectives.base import LayerMap, LayerObjective
from stages.schema.block import Weight

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.objectives.inputs import Batch, Captured, Shape, Side


class AttentionObjective(LayerObjective):
    """Compares attention head by head: both models have as many heads, and their tokens attend to the same tokens."""

    def layer_pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        pairs = super().layer_pairs(student, teacher)
        if student.heads != teacher.heads:
            raise ValueError(
                f"compares head by head, and the student has {student.heads}, the teacher {teacher.heads}; use "
                "`relations`"
            )
        _require_same_direction(student, teacher)
        for ours, theirs in pairs:
            sizes = [shape.windows.get(i, "no") for shape, i in ((student, ours), (teacher, theirs))]
            if sizes[0] != sizes[1]:
                raise ValueError(
                    f"compares attention maps, and the student's layer {ours} has {sizes[0]} sliding window, the "
                    f"teacher's {theirs} {sizes[1]}; set `layers` to pairs of equal ones"
                )
        return pairs

    def captured_aspects(self, side: Side) -> tuple[str, ...]:
        return ("q", "k", "attention")


class AttentionKL(AttentionObjective):
    """Divergence of the student's attention maps from the teacher's, over heads and queries that count.

    L = mean_l mean_b 1/(H·n_b) Σ_h Σ_{i ≤ n_b} KL(A_t[l,h,i] ‖ A_s[l,h,i])

    Source: MiniLM (Wang et al. 2020), eq. 3, at every layer as in MaKD (Liu, Mao et al. 2026); the mean over
    layers is ours, so that the weight means the same for every depth.
    """

    def pair_distances(
        self, student: Captured, teacher: Captured, batch: Batch, pair: tuple[int, int], learned: nn.Module | None
    ) -> Tensor:
        """Shapes: scores (batch, heads, tokens, tokens), before the softmax."""
        ours, theirs = student.attention_scores(pair[0], batch), teacher.attention_scores(pair[1], batch)
        return _mean_kl_over_queries(ours, theirs, batch)


class AttentionMSE(AttentionObjective):
    """Squared distance between attention scores before the softmax, over heads and pairs of tokens.

    L = mean_l mean_b 1/(H·|P_b|) Σ_h Σ_{(i,j) ∈ P_b} (S_s[l,h,i,j] − S_t[l,h,i,j])²,    S = QKᵀ/√d

    P_b: the pairs of a query i that counts and a key j that it may attend to: in a decoder none after i.

    Source: TinyBERT (Jiao et al. 2020), eq. 7.
    """

    def layer_pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        if "maps" in (student.scores, teacher.scores):
            raise ValueError(
                "needs scores that are QKᵀ/√d, and this family's hold relative positions; use attention_kl"
            )
        return super().layer_pairs(student, teacher)

    def pair_distances(
        self, student: Captured, teacher: Captured, batch: Batch, pair: tuple[int, int], learned: nn.Module | None
    ) -> Tensor:
        """Shapes: scores (batch, heads, tokens, tokens)."""
        ours, theirs = student.attention_scores(pair[0]), teacher.attention_scores(pair[1])
        squares = (ours.to(batch.mask.dtype) - theirs).square().mean(1)
        real = batch.counted.unsqueeze(2) * teacher.visible_keys(pair[1], batch)
        return (squares * real).sum((1, 2)) / real.sum((1, 2))


class Relations(LayerObjective):
    """Divergence between the self-attention relations of queries, of keys and of values.

    L = Σ_X w_X/Σw · mean_l mean_b 1/(A·n_b) Σ_a Σ_{i ≤ n_b} KL(R_t[X,l,a,i] ‖ R_s[X,l,a,i])
    R[X,l,a] = softmax(X_a X_aᵀ / √d_a),    X_a: the a-th of A equal parts of X's columns, d_a = width / A

    The number A of relation heads is free, so that models of different widths and head counts can be compared. In a
    decoder a token relates to itself and to earlier ones (ours).

    Source: MiniLMv2 (Wang et al. 2021), eq. 2 to 6. Values alone, A = the model's heads, together with `attention_kl`
    at the last layer: MiniLM (Wang et al. 2020), eq. 3 to 5.
    """

    layers: LayerMap = "last"
    """Layer mapping; MiniLMv2 takes the last layer, of large teachers one below it ([[6, 21]])."""
    heads: Annotated[int, Field(ge=1)] | None = None
    """Relation heads A; null: as many as the teacher has attention heads."""
    q: Weight = 1.0
    """Weight of the relations between queries."""
    k: Weight = 1.0
    """Weight of the relations between keys."""
    v: Weight = 1.0
    """Weight of the relations between values."""

    def active_weights(self) -> dict[str, float]:
        """Weights above 0, by matrix."""
        return {name: getattr(self, name) for name in ("q", "k", "v") if getattr(self, name) > 0}

    def layer_pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        heads = self.heads or teacher.heads
        for name, shape in (("student", student), ("teacher", teacher)):
            if wrong := [w for w in (shape.widths[x] for x in self.active_weights()) if w % heads]:
                raise ValueError(f"heads {heads} does not divide the {name}'s width {wrong[0]}; choose one that does")
        _require_same_direction(student, teacher)
        return super().layer_pairs(student, teacher)

    def captured_aspects(self, side: Side) -> tuple[str, ...]:
        return tuple(self.active_weights())

    def pair_distances(
        self, student: Captured, teacher: Captured, batch: Batch, pair: tuple[int, int], learned: nn.Module | None
    ) -> Tensor:
        """Shapes: X (batch, tokens, width), relations (batch, A, tokens, tokens)."""
        from stages.objectives.distances import attention_scores, split_heads, visible_keys

        count, weights = self.heads or teacher.shape.heads, self.active_weights()
        visible, total = visible_keys(batch.mask, teacher.shape), batch.mask.new_zeros(())
        for name, weight in weights.items():
            ours, theirs = (split_heads(x, count) for x in (student[name, pair[0]], teacher[name, pair[1]]))
            relations = attention_scores(ours, ours, visible), attention_scores(theirs, theirs, visible)
            total = total + weight / sum(weights.values()) * _mean_kl_over_queries(*relations, batch)
        return total


def _mean_kl_over_queries(student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    """Mean divergence over heads and the queries that count, (batch,)."""
    from stages.objectives.distances import kl_divergence

    return (kl_divergence(student, teacher).mean(1) * batch.counted).sum(1) / batch.counted.sum(1)


def _require_same_direction(student: Shape, teacher: Shape) -> None:
    if student.causal != teacher.causal:
        raise ValueError(
            "one model's tokens attend to earlier ones only and the other's both ways; compare their `hidden` states"
        )
