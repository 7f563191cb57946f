"""Which levels of the hierarchy, and which layers, are compared in a step."""

from collections.abc import Collection
from dataclasses import dataclass

from stages.objectives import Objective
from stages.objectives.base import Level
from stages.objectives.inputs import Aspect, Batch, Side
from stages.settings import Distill

LayerPairs = dict[str, list[tuple[int, int]]]
"""By objective: the (student, teacher) layers that it compares."""


@dataclass(frozen=True)
class StepPlan:
    """What is compared in one step."""

    levels: Collection[Level]
    layers: Collection[int] | None
    """The student's layers; None: all."""

    def select_terms(self, objectives: dict[str, Objective], pairs: LayerPairs) -> dict[str, Objective]:
        """The objectives of these levels that compare any of these layers."""

        def is_selected(name: str) -> bool:
            layers = [student for student, _ in pairs[name]]
            return objectives[name].level in self.levels and (
                not layers or self.layers is None or any(i == 0 or i in self.layers for i in layers)
            )

        return {name: term for name, term in objectives.items() if is_selected(name)}


ALL_LEVELS: tuple[Level, ...] = ("prediction", "layer", "matrix")
PHASES: tuple[tuple[Level, ...], ...] = (("layer",), ("layer", "matrix"), ("prediction",))
"""The levels of the three phases of the progressive hierarchy."""


def plan_step(settings: Distill, progress: float, step: int, depth: int) -> StepPlan:
    """The plan at a share of the training, at optimizer step `step`, for a student of `depth` layers.

    `joint`: everything always. `progressive`: layer level, then layer and matrix level, then prediction only; shares of
    [0.7, 0, 0.3] are TinyBERT's intermediate, then prediction. A phase in which no objective counts is passed over.
    `rotating`: every third layer, the first of them moving by one each step. Source: MaKD; shares, rotation ours.
    """
    if settings.hierarchy == "progressive":
        levels = {term.level for term in settings.objectives.active_terms().values()}
        phases = [
            (phase, share) for phase, share in zip(PHASES, settings.phase_shares, strict=True) if levels & set(phase)
        ]
        left = progress * sum(share for _, share in phases)
        for phase, share in phases:
            if left < share:
                return StepPlan(phase, None)
            left -= share
        return StepPlan(phases[-1][0], None)
    if settings.hierarchy == "rotating":
        return StepPlan(ALL_LEVELS, range(1 + step % 3, depth + 1, 3))
    return StepPlan(ALL_LEVELS, None)


def list_aspects(terms: dict[str, Objective], pairs: LayerPairs, side: Side, batch: Batch | None = None) -> set[Aspect]:
    """What must be captured of one model for these terms, at the layers that they compare in this batch."""
    return {
        (aspect, pair[side == "teacher"])
        for name, term in terms.items()
        for aspect in term.captured_aspects(side)
        for pair in pairs[name]
        if batch is None or batch.compares_layer(pair[0])
    }
