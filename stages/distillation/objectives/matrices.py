"""The finest grain: what each matrix inside a layer computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stages.distillation.objectives.base import LayerObjective, Layers, Side, mapped

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.distillation.capture import Batch, Captured
    from stages.models.anatomy import Shape

Weight = Annotated[float, Field(ge=0)]


class Maps(BaseModel):
    """Weights of the maps within the matrix level; 0 leaves one out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

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
    def _some(self) -> Self:
        if not self.active():
            raise ValueError("maps are all 0; set the objective's own weight to 0 instead")
        return self

    def active(self) -> dict[str, float]:
        return {name: weight for name, weight in self.model_dump().items() if weight > 0}

    def of(self, student: Shape, teacher: Shape) -> dict[str, float]:
        """Those that both models have."""
        return {n: weight for n, weight in self.active().items() if n in student.widths and n in teacher.widths}


class Matrices(LayerObjective):
    """Squared distance between the outputs of the matrices inside the layers: MHA maps Q, K, V; FFN maps up, down.
    A gated feed-forward, down(act(gate x) · up x), has the gate's map as well (ours).

    L = mean_l Σ_m w_m/Σw · mean_b  Σ_i |W_m s_m[l,i] − t_m[l,i]|² / Σ_i |t_m[l,i]|²

    W_m is learned where the widths differ, and not there where they are equal.

    Source: MaKD (Liu, Mao et al. 2026) for the choice of maps; squared form, normalization and weights are ours.
    """

    level = "matrix"
    maps: Maps = Maps()
    """Weight of each map."""
    layers: Layers | Literal["sparse"] = "sparse"
    """`sparse`: every `every`-th student layer and the last, mapped as by `skip`; or any other map of layers."""
    every: Annotated[int, Field(ge=1)] = 2
    """For `sparse`: the distance between compared layers."""
    mode: Literal["joint", "local"] = "joint"
    """`joint`: what the student's matrix says of the student's own input. `local`: of the teacher's input, so that
    each matrix learns alone, undisturbed by the layers below."""
    normalize: Literal["teacher", "none"] = "teacher"
    """`none` divides by the number of entries instead of the teacher's squared norm."""

    def pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        if self.mode == "local" and student.widths != teacher.widths:
            raise ValueError("mode `local` feeds the teacher's vectors to the student's matrices; widths must be equal")
        if not self.maps.of(student, teacher):
            raise ValueError(f"maps {', '.join(self.maps.active())}: not both models have any of them; use up and down")
        if self.layers != "sparse":
            return super().pairs(student, teacher)
        kept = {*range(self.every, student.depth + 1, self.every), student.depth}
        return [pair for pair in mapped("skip", student.depth, teacher.depth) if pair[0] in kept]

    def aspects(self, side: Side) -> tuple[str, ...]:
        maps = tuple(self.maps.active())
        if self.mode == "joint":
            return maps
        return (*maps, *(f"input.{name}" for name in maps)) if side == "teacher" else ()

    def learned(self, student: Shape, teacher: Shape, labels: list) -> nn.Module | None:
        from stages.distillation.distances import projections

        return projections(student, teacher, self.maps.of(student, teacher))

    def distances(self, student: Captured, teacher: Captured, batch: Batch, pair: tuple[int, int], learned) -> Tensor:
        """Shapes: each map (batch, tokens, its matrix's output width)."""
        from stages.distillation.distances import projected, squared_distance

        weights = self.maps.of(student.shape, teacher.shape)
        total = 0.0
        for name, weight in weights.items():
            ours = student[name, pair[0]] if self.mode == "joint" else student.replayed(name, pair, teacher)
            ours = projected(ours, learned, name)
            distance = squared_distance(ours, teacher[name, pair[1]], batch.counted, self.normalize)
            total = total + weight / sum(weights.values()) * distance
        return total
