"""The student's width, and the learning rate, at each step."""

import math
from dataclasses import dataclass
from typing import Literal

from stages.models.families import Group


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Numbers of dimensions."""

    residual: int
    """Of the residual stream, and of all heads together, as far as that divides."""
    neurons: int
    """Of each feed-forward."""

    def of_group(self, group: Group) -> int:
        return self.neurons if group == "ffn" else self.residual


@dataclass(frozen=True, kw_only=True)
class PruningSchedule:
    """From the whole model to each target in turn, every one in an equal part of the training.

    In a part, after its warm-up share t_i and up to its share t_f, with x = (t − t_i)/(t_f − t_i):

    n(t) = n_target + (n_before − n_target) (1 − x)³

    Source: HomoDistil (Liang et al. 2023), after Zhu & Gupta 2017; several targets in one run are ours.
    """

    whole: Widths
    targets: tuple[Widths, ...]
    warmup_ratio: float
    """t_i, and the share in which the learning rate rises."""
    pruning_end: float
    """t_f"""
    shape: Literal["cubic", "oneshot"] = "cubic"
    """`oneshot` goes to the target at t_i."""

    def locate_part(self, progress: float) -> tuple[int, float]:
        """Which target is under way, from 0, and which share of its part is done."""
        place = min(progress, 1.0) * len(self.targets)
        part = min(int(place), len(self.targets) - 1)
        return part, place - part

    def widths_at(self, progress: float) -> Widths:
        """At a share of the training."""
        part, done = self.locate_part(progress)
        before, target = (self.whole, *self.targets)[part], self.targets[part]
        if done < self.warmup_ratio:
            return before
        x = (
            1.0
            if self.shape == "oneshot"
            else min(1.0, (done - self.warmup_ratio) / (self.pruning_end - self.warmup_ratio))
        )
        left = (1 - x) ** 3
        residual = math.ceil(target.residual + (before.residual - target.residual) * left)
        return Widths(residual=residual, neurons=math.ceil(target.neurons + (before.neurons - target.neurons) * left))

    def rate_at(self, progress: float) -> float:
        """Factor of the learning rate: up in a part's warm-up, then linearly to 0 at its end."""
        _, done = self.locate_part(progress)
        return done / self.warmup_ratio if done < self.warmup_ratio else (1 - done) / (1 - self.warmup_ratio)

    def end_steps(self, steps: int) -> list[int]:
        """The step after which each target is done."""
        return [round((i + 1) * steps / len(self.targets)) for i in range(len(self.targets))]
