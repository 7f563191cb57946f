"""What all objectives share: a weight, the level of the hierarchy they belong to, and which layers they compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

    from stages.distillation.capture import Aspect, Batch, Captured

Layer = Annotated[int, Field(ge=1)]
Layers = Literal["all"] | list[Layer]
"""`all`, or a list of layer numbers, counted from 1."""


class Objective(BaseModel):
    """A differentiable comparison of what student and teacher computed on one batch."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    level: ClassVar[Literal["prediction", "layer", "matrix"]] = "prediction"
    compares: ClassVar[bool] = True
    """False where the teacher is not looked at; with no other term it is not run."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor of this term in the sum; 0 leaves it out altogether."""

    def compared(self, depth: int) -> list[int]:
        """The layers (from 1) that this objective compares in models of this depth; none for the prediction level."""
        return []

    def aspects(self, depth: int) -> set[Aspect]:
        """What has to be captured while the models run: pairs of a name and a layer number."""
        return set()

    def __call__(self, student: Captured, teacher: Captured, batch: Batch) -> Tensor:
        """Returns a scalar: 0, or the teacher's own floor, where the student equals the teacher."""
        raise NotImplementedError


def selected(layers: Layers, depth: int) -> list[int]:
    """The chosen layers of a model of this depth.

    Raises:
        ValueError: a listed layer is not in the model.
    """
    if layers == "all":
        return list(range(1, depth + 1))
    outside = [layer for layer in layers if layer > depth]
    if outside:
        raise ValueError(f"layers {outside} do not exist: the model has layers 1 to {depth}")
    return list(layers)
