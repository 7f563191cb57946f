"""When each level of the hierarchy has its turn."""

from collections.abc import Collection
from dataclasses import dataclass

from stages.distillation.objectives import Objective
from stages.settings import Distill


@dataclass(frozen=True)
class Turn:
    """What counts in one step."""

    levels: Collection[str]
    layers: Collection[int] | None
    """None: all."""

    def terms(self, objectives: dict[str, Objective], depth: int) -> dict[str, Objective]:
        """The objectives whose turn it is: their level counts, and so does one of the layers that they compare."""

        def counts(term: Objective) -> bool:
            compared = term.compared(depth)
            return term.level in self.levels and (
                not compared or self.layers is None or any(layer in self.layers for layer in compared)
            )

        return {name: term for name, term in objectives.items() if counts(term)}


ALL = ("prediction", "layer", "matrix")


def turn(settings: Distill, step: int, steps: int, depth: int) -> Turn:
    """The turn at optimizer step `step` of `steps`.

    `layers`: everything always. `stages`: layer level, then layer and matrix level, then prediction only. `rotate`:
    every third layer, the start moving by one each step. Source: hierarchy from MaKD; shares and rotation ours.
    """
    if settings.hierarchy == "stages":
        first, second, _ = settings.stage_shares
        progress = step / max(1, steps)
        if progress < first:
            return Turn(("layer",), None)
        return Turn(("layer", "matrix"), None) if progress < first + second else Turn(("prediction",), None)
    if settings.hierarchy == "rotate":
        return Turn(ALL, range(1 + step % 3, depth + 1, 3))
    return Turn(ALL, None)
