"""What all objectives share: a weight, a level of the hierarchy, the layers they compare, what they learn."""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from stages.schema.block import Block, Weight

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stages.objectives.inputs import Batch, Captured, Shape, Side

Level = Literal["prediction", "layer", "matrix"]
Layer = Annotated[int, Field(ge=1)]
LayerMap = Literal["skip", "last", "all"] | list[Layer] | list[tuple[Layer, Layer]]
"""Layer mapping: which student layers are compared with which teacher layers, counted from 1. `skip`: every student
layer with the teacher's at the same relative depth (i with k·i, k = L_t/L_s, rounded). `last`: the last with the last.
`all`: each with its own, for equal depths. A list of layers: each with its own. A list of [student, teacher] pairs:
just those."""


class Ramp(Block):
    """A value that moves from `start` to `end` during the training."""

    start: Weight
    """Value at the first step."""
    end: Weight
    """Value from `until` on."""
    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training after which `end` is reached."""
    shape: Literal["linear", "cosine", "step"] = "linear"
    """How the value moves; `step` keeps `start` until `until`."""

    def value_at(self, progress: float) -> float:
        """The value at a share of the training."""
        done = min(1.0, progress / self.until)
        share = {"linear": done, "cosine": (1 - math.cos(math.pi * done)) / 2, "step": float(done >= 1)}[self.shape]
        return self.start + (self.end - self.start) * share


class Objective(Block):
    """A differentiable comparison of what student and teacher computed on one batch."""

    level: ClassVar[Level] = "prediction"
    uses_teacher: ClassVar[bool] = True
    """False where the objective reads labels only; with no other term the teacher is not run."""

    weight: Weight | Ramp = 1.0
    """Factor of this term in the sum; 0 leaves it out altogether; or a ramp {start, end, until, shape}."""

    @property
    def required_top_k(self) -> int:
        """How many of the teacher's most probable classes are needed one by one; a logit cache has at least these."""
        return 0

    @property
    def is_active(self) -> bool:
        """Whether the weight is above 0 at any time."""
        weight = self.weight
        return weight.start + weight.end > 0 if isinstance(weight, Ramp) else weight > 0

    def layer_pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        """The (student, teacher) layers that are compared, from 1 (0: the embeddings); none for the prediction level.

        Raises:
            ValueError: models of these shapes cannot be compared so.
        """
        return []

    def captured_aspects(self, side: Side) -> tuple[str, ...]:
        """What has to be captured of that model at each compared layer."""
        return ()

    def learned_modules(self, student: Shape, teacher: Shape, labels: list[float]) -> nn.Module | None:
        """What the objective learns with the student, such as projections between different widths; usually none.

        Args:
            labels: those of the training examples, in order.
        """
        return None

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned: nn.Module | None = None) -> Tensor:
        """Returns a scalar: 0, or the teacher's own floor, where the student equals the teacher."""
        raise NotImplementedError


class LayerObjective(Objective):
    """An objective that compares layers pair by pair and takes the mean over them.

    In the formulas the n_b tokens i of an example b are those that count: all but padding, or for a causal model those
    whose next token is predicted. Prompt tokens are attended to, but not compared themselves (ours).
    """

    level: ClassVar[Level] = "layer"
    layers: LayerMap = "skip"
    """Layer mapping: which student layers are compared with which of the teacher's."""

    def layer_pairs(self, student: Shape, teacher: Shape) -> list[tuple[int, int]]:
        return map_layers(self.layers, student.depth, teacher.depth)

    def pair_distances(
        self, student: Captured, teacher: Captured, batch: Batch, pair: tuple[int, int], learned: nn.Module | None
    ) -> Tensor:
        """One value for each example of the batch, (batch,), at one pair of layers."""
        raise NotImplementedError

    def __call__(self, student: Captured, teacher: Captured, batch: Batch, learned: nn.Module | None = None) -> Tensor:
        pairs = [p for p in self.layer_pairs(student.shape, teacher.shape) if batch.compares_layer(p[0])]
        means = [self.pair_distances(student, teacher, batch, pair, learned).mean() for pair in pairs]
        return reduce(add, means) / len(pairs)


def value_at(setting: float | Ramp, progress: float) -> float:
    """A setting that may be a ramp, at a share of the training."""
    return setting.value_at(progress) if isinstance(setting, Ramp) else setting


def require_classes(labels: list[float]) -> None:
    """Refuses the labels of a regression, whose output is a number.

    Raises:
        ValueError: the labels are not whole numbers.
    """
    if labels and isinstance(labels[0], float):
        raise ValueError(
            f"compares probabilities of classes, and this task's labels are numbers such as {labels[0]:g}; use `kl`, "
            "`reverse_kl` or `logit_mse`"
        )


def map_layers(layers: LayerMap | str, student: int, teacher: int) -> list[tuple[int, int]]:
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
    for name, depth, side in (("student", student, 0), ("teacher", teacher, 1)):
        if outside := sorted({pair[side] for pair in pairs if pair[side] > depth}):
            raise ValueError(f"layers {outside} do not exist: the {name} has layers 1 to {depth}")
    if not pairs:
        raise ValueError("layers is empty; name some, or set the objective to null")
    return pairs
