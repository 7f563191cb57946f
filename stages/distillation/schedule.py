"""When each level of the hierarchy, and each layer, has its turn."""

from collections.abc import Collection
from dataclasses import dataclass

from stages.distillation.objectives import Objective
from stages.settings import Distill

Pairs = dict[str, list[tuple[int, int]]]
"""By objective: the (student, teacher) layers that it compares."""


@dataclass(frozen=True)
class Turn:
    """What counts in one step."""

    levels: Collection[str]
    layers: Collection[int] | None
    """The student's layers; None: all."""

    def terms(self, objectives: dict[str, Objective], pairs: Pairs) -> dict[str, Objective]:
        """The objectives whose turn it is: their level counts, and so does one of the layers that they compare."""

        def counts(name: str) -> bool:
            layers = [student for student, _ in pairs[name]]
            return objectives[name].level in self.levels and (
                not layers or self.layers is None or any(i == 0 or i in self.layers for i in layers)
            )

        return {name: term for name, term in objectives.items() if counts(name)}


ALL = ("prediction", "layer", "matrix")
STAGES = (("layer",), ("layer", "matrix"), ("prediction",))
"""What counts in the three stages of `stages`."""


def turn(settings: Distill, progress: float, step: int, depth: int) -> Turn:
    """The turn at a share of the training, at optimizer step `step`, of a student of `depth` layers.

    `layers`: everything always. `stages`: layer level, then layer and matrix level, then prediction only; shares of
    [0.7, 0, 0.3] are TinyBERT's intermediate, then prediction. A stage in which nothing counts is passed over.
    `rotate`: every third layer, the start moving by one each step. Source: MaKD; shares, rotation ours.
    """
    if settings.hierarchy == "stages":
        levels = {term.level for term in settings.objectives.active().values()}
        stages = [
            (part, share) for part, share in zip(STAGES, settings.stage_shares, strict=True) if levels & set(part)
        ]
        place = progress * sum(share for _, share in stages)
        for part, share in stages:
            if place < share:
                return Turn(part, None)
            place -= share
        return Turn(stages[-1][0], None)
    if settings.hierarchy == "rotate":
        return Turn(ALL, range(1 + step % 3, depth + 1, 3))
    return Turn(ALL, None)
