"""What all objectives share: a weight, a level of the hierarchy, the layers they compare, what they learn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.distillation.capture import Batch, Captured
    from stages.models.anatomy import Shape

Side = Literal["student", "teacher"]
Layer = Annotated[int, Field(ge=1)]
Layers = Literal["skip", "last", "all"] | list[Layer] | list[tuple[Layer, Layer]]
"""Which layers are compared with which, counted from 1. `skip`: every student layer with the teacher's at the same
relative depth (i with k·i, k = L_t/L_s, rounded). `last`: the last with the last. `all`: each with its own, for equal
depths. A list of layers: each with its own. A list of [student, teacher] pairs: just that."""


class Ramp(BaseModel):
    """A value that moves from `start` to `end` while training goes on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    start: Annotated[float, Field(ge=0)]
    """Value at the first step."""
    end: Annotated[float, Field(ge=0)]
    """Value from `until` on."""
    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training after which `end` is reached."""
    shape: Literal["linear", "cosine", "step"] = "linear"
    """`step` keeps `start` until `until`."""

    def at(self, progress: float) -> float:
        """The value at a share of the training."""
        done = min(1.0, progress / self.until)
        share = {"linear": done, "cosine": (1 - math.cos(math.pi * done)) / 2, "step": float(done >= 1)}[self.shape]
        return self.start + (self.end - self.start) * share


class Objective(BaseModel):
    """A differentiable comparison of what student and teacher computed on one batch."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    level: ClassVar[Literal["prediction", "layer", "matrix"]] = "prediction"
    compares: ClassVar[bool] = True
    """False where the teacher is not looked at; with no other term it is not run."""

    weight: Annotated[float, Field(ge=0)] | Ramp = 1.0
    """Factor of this term in the sum; 0 leaves it out altogether; or {start, end, until, shape}."""

    @property
    def ordered(self) -> int:
        """How many of the teacher's most probable classes must be told from the others, and from each other."""
        return 0

    def pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        """The (student, teacher) layers that are compared, from 1 (0: the embeddings); none for the prediction level.

        Raises:
            ValueError: models of these shapes cannot be compared so.
        """
        return []

    def aspects(self, side: Side) -> tuple[str, ...]:
        """What has to be captured of that model at each compared layer."""
        return ()

    def learned(self, student: Shape, teacher: Shape, labels: list) -> nn.Module | None:
        """What the objective learns beside the student, such as projections between different widths; usually none.

        Args:
            labels: those of the training examples, in order.
        """
        return None

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned: nn.Module | None = None) -> Tensor:
        """Returns a scalar: 0, or the teacher's own floor, where the student equals the teacher."""
        raise NotImplementedError


class LayerObjective(Objective):
    """An objective that compares layers pair by pair and takes the mean over them.

    In the formulas the n_b tokens i of an example b are those that count: all but padding, or in a causal model those
    that are asked for the next one, as for what it says. A prompt is looked at, and not compared itself (ours).
    """

    level = "layer"
    layers: Layers = "skip"
    """Which layers are compared."""

    def pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        return mapped(self.layers, student.depth, teacher.depth)

    def distances(
        self, student: Captured, teacher: Captured, batch: Batch, pair: tuple[int, int], learned: nn.Module | None
    ) -> Tensor:
        """One value for each example of the batch, (batch,), at one pair of layers."""
        raise NotImplementedError

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned: nn.Module | None = None) -> Tensor:
        pairs = [pair for pair in self.pairs(student.shape, teacher.shape) if batch.takes(pair[0])]
        return sum(self.distances(student, teacher, batch, p, learned).mean() for p in pairs) / len(pairs)


def at(value: float | Ramp, progress: float) -> float:
    """A setting that may be a ramp, at a share of the training."""
    return value.at(progress) if isinstance(value, Ramp) else value


def distributions(labels: list) -> None:
    """Refuses the labels of a regression, whose output is a number.

    Raises:
        ValueError: a label is not whole.
    """
    if labels and isinstance(labels[0], float):
        raise ValueError(
            f"compares probabilities of classes, and this task's labels are numbers such as {labels[0]:g}; use `kl`, "
            "`reverse_kl` or `logit_mse`"
        )


def mapped(layers: Layers, student: int, teacher: int) -> list[tuple[int, int]]:
    """The (student, teacher) layers to compare in models of these depths.

    Source of `skip`: PKD (Sun et al. 2019), TinyBERT (Jiao et al. 2020); rounding where k is not whole is ours.

    Raises:
        ValueError: a listed layer is not in its model, or `all` with different depths.
    """
    if layers == "last":
        return [(student, teacher)]
    if layers == "all" and student != teacher:
        raise ValueError(f"layers `all` needs equal depths, not {student} and {teacher}; use `skip`")
    if isinstance(layers, str):
        return [(i, max(1, round(i * teacher / student))) for i in range(1, student + 1)]
    pairs = [layer if isinstance(layer, tuple) else (layer, layer) for layer in layers]
    for name, depth, place in (("student", student, 0), ("teacher", teacher, 1)):
        if outside := sorted({pair[place] for pair in pairs if pair[place] > depth}):
            raise ValueError(f"layers {outside} do not exist: the {name} has layers 1 to {depth}")
    if not pairs:
        raise ValueError("layers is empty; name some, or set the objective to null")
    return pairs
