"""The blocks of what the main chain's student is compared with."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from stages.schema.block import Block


class Recipe(Block):
    """A way to make a student: what it changes in the main chain's `factorize` and `distill`.

    `objectives` named in a recipe are all that it has, each with the main chain's settings where that has it too.
    """

    extends: str | None = None
    """Another recipe, whose changes come first."""
    factorize: dict[str, Any] = {}
    """Overrides of the `factorize` block."""
    distill: dict[str, Any] | None = {}
    """Overrides of the `distill` block; null means no training. Where its objectives compare inner states of the
    teacher, the main chain's `offline` does not count."""


def add_built_in(recipes: Any) -> Any:
    """The built-in recipes, and these, which may replace some."""
    return _read_built_in() | recipes if isinstance(recipes, dict) else recipes


@cache
def _read_built_in() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("recipes.yaml").read_text(encoding="utf8"))


class Baseline(Block):
    """The teacher in; a baseline out: a student of the same size, made another way, scored."""

    recipes: list[str] = ["svd", "whitened", "lowrank_finetune", "lowrank_kd"]
    """Which recipes to run; with none the main chain is compared with its teacher alone."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [42]
    """Each recipe is trained once per seed, all from the one teacher of the task."""


class TimeBaselines(Block):
    """A baseline and its teacher in; how much faster the baseline is out."""

    enabled: bool = True
    """Time each baseline (its first seed) against the teacher, as `benchmark` does and in the cell that `compare`
    shows; false: the comparison has no latency of theirs."""
