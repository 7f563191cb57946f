"""The finest grain: what each matrix inside a layer computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stages.distillation.objectives.base import Layers, Objective, selected

if TYPE_CHECKING:
    from torch import Tensor

    from stages.distillation.capture import Aspect, Batch, Captured

Weight = Annotated[float, Field(ge=0)]


class Maps(BaseModel):
    """Weights of the five maps within the matrix level; 0 leaves one out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    q: Weight = 1.0
    """Query vectors."""
    k: Weight = 1.0
    """Key vectors."""
    v: Weight = 1.0
    """Value vectors."""
    up: Weight = 1.0
    """The feed-forward network's inner vectors, before the activation."""
    down: Weight = 1.0
    """The feed-forward network's output vectors."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.active():
            raise ValueError("maps are all 0; set the objective's own weight to 0 instead")
        return self

    def active(self) -> dict[str, float]:
        return {name: weight for name, weight in self.model_dump().items() if weight > 0}


class Matrices(Objective):
    """Squared distance between the outputs of the matrices inside the layers: MHA maps Q, K, V; FFN maps up, down.

    L = mean_l Σ_m w_m/Σw · mean_b  Σ_i |s_m[l,i] − t_m[l,i]|² / Σ_i |t_m[l,i]|²

    Source: MaKD (Liu, Mao et al. 2026) for the choice of maps; squared form, normalization and weights are ours.
    """

    level = "matrix"
    maps: Maps = Maps()
    """Weight of each map."""
    layers: Layers | Literal["sparse"] = "sparse"
    """`sparse`: every `every`-th layer and the last; or `all`, or a list counted from 1."""
    every: Annotated[int, Field(ge=1)] = 2
    """For `sparse`: the distance between compared layers."""
    mode: Literal["joint", "local"] = "joint"
    """`joint`: what the student's matrix says of the student's own input. `local`: of the teacher's input, so that
    each matrix learns alone, undisturbed by the layers below."""
    normalize: Literal["teacher", "none"] = "teacher"
    """`none` divides by the number of entries instead of the teacher's squared norm."""

    def compared(self, depth: int) -> list[int]:
        if self.layers == "sparse":
            return sorted({*range(self.every, depth + 1, self.every), depth})
        return selected(self.layers, depth)

    def aspects(self, depth: int) -> set[Aspect]:
        prefix = "input." if self.mode == "local" else ""
        names = {n for m in self.maps.active() for n in (m, prefix + m)}
        return {(name, layer) for layer in self.compared(depth) for name in names}

    def __call__(self, student: Captured, teacher: Captured, batch: Batch) -> Tensor:
        """Shapes: each map (batch, tokens, its matrix's output width)."""
        from stages.distillation.distances import squared_distance

        layers = [layer for layer in self.compared(student.depth) if batch.takes(layer)]
        weights = self.maps.active()
        total = 0.0
        for layer in layers:
            for name, weight in weights.items():
                ours = student[name, layer] if self.mode == "joint" else student.replayed(name, layer, teacher)
                distance = squared_distance(ours, teacher[name, layer], batch.mask, self.normalize)
                total = total + weight / sum(weights.values()) * distance.mean()
        return total / len(layers)
