"""All of params.yaml, and what a recipe makes of it."""

from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from stages.corpora.corpus import CORPORA, Corpus
from stages.distillation.objectives import Objectives
from stages.settings.agnostic import Pretrain, Prune
from stages.settings.block import BadInput, Block
from stages.settings.data import Base, Data, Pack, Prepare
from stages.settings.models import Distill, Factorize, Finetune
from stages.settings.report import sentences
from stages.settings.results import Baseline, Benchmark, Compare, Evaluate, Export, Promote, Race, Recipe, Tracking
from stages.tasks import GLUE, Task


class Params(Block):
    """All of `params.yaml`."""

    seed: Annotated[int, Field(ge=0)] = 42
    """Seed of every draw: data, initialization, order."""
    tasks: Annotated[list[str], Field(min_length=1)] = ["sentiment"]
    """`sentiment` (bundled), GLUE's nine, or names from `data.custom`."""
    corpora: list[str] = []
    """Text to prune on: `bundled` (the sentences of `sentiment`), or names from `data.corpora`."""
    base: Base = Base()
    data: Data = Data()
    prepare: Prepare = Prepare()
    finetune: Finetune = Finetune()
    factorize: Factorize = Factorize()
    distill: Distill = Distill()
    recipes: dict[str, Recipe] = {}
    baseline: Baseline = Baseline()
    race: Race = Race()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    benchmark: Benchmark = Benchmark()
    compare: Compare = Compare()
    pack: Pack = Pack()
    pretrain: Pretrain = Pretrain()
    prune: Prune = Prune()
    promote: Promote = Promote()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name in self.tasks:
            self.task(name)
        for name in self.corpora:
            self.corpus(name)
        lists = {"tasks": self.tasks, "corpora": self.corpora}
        lists |= {"baseline.recipes": self.baseline.recipes, "baseline.seeds": self.baseline.seeds}
        for where, names in lists.items():
            if twice := sorted({str(name) for name in names if names.count(name) > 1}):
                raise ValueError(f"{where} names {', '.join(twice)} twice")
        for name in self.baseline.recipes:
            if name not in self.recipes:
                raise ValueError(
                    f"baseline.recipes names `{name}`; the recipes are {', '.join(self.recipes) or 'none'}"
                )
        for name in self.recipes:
            try:
                self.recipe(name)
            except ValidationError as error:
                raise ValueError(f"recipes.{name} changes what cannot be so: {sentences(error)}") from None
        missing = set(self.benchmark.variants) - set(self.export.variants)
        if missing:
            raise ValueError(f"benchmark.variants has {sorted(missing)}, which export.variants does not make")
        return self

    def task(self, name: str) -> Task:
        """The row of a task: one of your own, or GLUE's."""
        known = GLUE | self.data.custom
        if name not in known:
            raise BadInput(f"tasks names `{name}`; known are {', '.join(known)}; describe your own under data.custom")
        return known[name]

    def corpus(self, name: str) -> Corpus:
        """The row of a corpus: one of your own, or the bundled one."""
        known = CORPORA | self.data.corpora
        if name not in known:
            raise BadInput(
                f"corpora names `{name}`; known are {', '.join(known)}; describe your own under data.corpora"
            )
        return known[name]

    def recipe(self, name: str) -> tuple[Factorize, Distill | None]:
        """The `factorize` and `distill` blocks of a recipe: the main chain's, changed by what it extends and by itself.

        Raises:
            ValueError: it extends a recipe that does not exist, or itself.
        """
        student, training = self.factorize.model_dump(), self.distill.model_dump()
        for recipe in self._lineage(name):
            student = merge(student, recipe.factorize)
            training = None if recipe.distill is None else _retrained(training or self.distill.model_dump(), recipe)
        return Factorize.model_validate(student), training and self._trained(training, name)

    def _trained(self, training: dict[str, Any], name: str) -> Distill:
        """The `distill` block of a recipe; what its objectives have no use for is off, unless a recipe names it.

        Those that look inside the teacher need it running, those that look at labels alone need no text but the data's.
        """
        objectives = Distill.model_validate(training | {"offline": None, "on_policy": None}).objectives
        useless = {"offline": bool(objectives.inner()), "on_policy": not objectives.compare()}
        named = {key for recipe in self._lineage(name) for key in recipe.distill or {}}
        off = {key: None for key, useless in useless.items() if useless and key not in named}
        return Distill.model_validate(training | off)

    def _lineage(self, name: str) -> list[Recipe]:
        """The recipe, after what it extends, the root first."""
        names = [name]
        while parent := self.recipes[names[0]].extends:
            if parent not in self.recipes or parent in names:
                known = ", ".join(n for n in self.recipes if n not in names) or "none"
                raise ValueError(f"recipes.{names[0]}.extends names `{parent}`; it may extend {known}")
            names.insert(0, parent)
        return [self.recipes[n] for n in names]


def _retrained(training: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The `distill` block after a recipe's changes; the terms of its loss are those it names, if it names any."""
    changes = dict(recipe.distill or {})
    if isinstance(named := changes.pop("objectives", None), dict):
        terms = merge({name: training["objectives"].get(name) for name in named}, named)
        training = training | {"objectives": dict.fromkeys(Objectives.model_fields) | terms}
    return merge(training, changes)


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new` over `old`, nested dicts key by key."""
    both = {k: merge(old[k], v) if isinstance(v, dict) and isinstance(old.get(k), dict) else v for k, v in new.items()}
    return old | both
