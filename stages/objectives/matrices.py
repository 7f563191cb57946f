"""The matrix level, the finest: the output of each matrix inside a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.objectives.base import LayerMap, LayerObjective, map_layers
from stages.schema.block import Block, Weight

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.objectives.inputs import Batch, Captured, Shape, Side


class MatrixWeights(Block):
    """Weights of the maps within the matrix level; 0 leaves one out."""

    q: Weight = 1.0
    """Query vectors."""
    k: Weight = 1.0
    """Key vectors."""
    v: Weight = 1.0
    """Value vectors."""
    up: Weight = 1.0
    """The feed-forward network's inner vectors, before the activation; in gated ones, those that the gate scales."""
    gate: Weight = 1.0
    """In gated feed-forwards, the gate's vectors before the activation; without effect in others."""
    down: Weight = 1.0
    """The feed-forward network's output vectors."""

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        if not self.active_weights():
            raise ValueError("maps are all 0; set the objective's own weight to 0 instead")
        return self

    def active_weights(self) -> dict[str, float]:
        """Weights above 0, by map."""
        return {name: weight for name, weight in self.model_dump().items() if weight > 0}

    def shared_weights(self, student: Shape, teacher: Shape) -> dict[str, float]:
        """Weights above 0 of the maps that both models have."""
        weights = self.active_weights().items()
        return {n: weight for n, weight in weights if n in student.widths and n in teacher.widths}


class Matrices(LayerObjective):
    """Squared distance between the outputs of the matrices inside the layers: MHA maps Q, K, V; FFN maps up, down.
    A gated feed-forward, down(act(gate x) · up x), has the gate's map as well (ours).

    L = mean_l Σ_m w_m/Σw · mean_b  Σ_i |W_m s_m[l,i] − t_m[l,i]|² / Σ_i |t_m[l,i]|²

    W_m is learned where the widths differ, and absent where they are equal.

    Source: MaKD (Liu, Mao et al. 2026) for the choice of maps; squared form, normalization and weights are ours.
    """

    level = "matrix"
    maps: MatrixWeights = MatrixWeights()
    """Weight of each map."""
    layers: LayerMap | Literal["sparse"] = "sparse"  # type: ignore[assignment]  # one choice more than its base class
    """`sparse`: every `every`-th student layer and the last, mapped as by `skip`; or any other layer mapping."""
    every: Annotated[int, Field(ge=1)] = 2
    """For `sparse`: the distance between compared layers."""
    mode: Literal["joint", "local"] = "joint"
    """`joint`: the student's matrices read the student's own input. `local`: the teacher's input, so that each matrix
    learns alone, undisturbed by the layers below."""
    normalize: Literal["teacher", "none"] = "teacher"
    """`none` divides by the number of entries instead of the teacher's squared norm."""

    def layer_pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        if self.mode == "local" and student.widths != teacher.widths:
            raise ValueError("mode `local` feeds the teacher's vectors to the student's matrices; widths must be equal")
        if not self.maps.shared_weights(student, teacher):
            names = ", ".join(self.maps.active_weights())
            raise ValueError(f"maps {names}: not both models have any of them; use up and down")
        if self.layers != "sparse":
            return super().layer_pairs(student, teacher)
        compared = {*range(self.every, student.depth + 1, self.every), student.depth}
        return [pair for pair in map_layers("skip", student.depth, teacher.depth) if pair[0] in compared]

    def captured_aspects(self, side: Side) -> tuple[str, ...]:
        maps = tuple(self.maps.active_weights())
        if self.mode == "joint":
            return maps
        return (*maps, *(f"input.{name}" for name in maps)) if side == "teacher" else ()

    def learned_modules(self, student: Shape, teacher: Shape, labels: list[float]) -> nn.Module | None:
        from stages.objectives.distances import build_projections

        return build_projections(student, teacher, self.maps.shared_weights(student, teacher))

    def pair_distances(
        self, student: Captured, teacher: Captured, batch: Batch, pair: tuple[int, int], learned: nn.Module | None
    ) -> Tensor:
        """Shapes: each map (batch, tokens, its matrix's output width)."""
        from stages.objectives.distances import project, squared_distance

        weights, total = self.maps.shared_weights(student.shape, teacher.shape), batch.mask.new_zeros(())
        for name, weight in weights.items():
            ours = student[name, pair[0]] if self.mode == "joint" else student.replay(name, pair, teacher)
            ours = project(ours, learned, name)
            distance = squared_distance(ours, teacher[name, pair[1]], batch.counted, self.normalize)
            total = total + weight / sum(weights.values()) * distance
        return total
