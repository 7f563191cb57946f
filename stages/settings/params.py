"""All of params.yaml, and the settings of a recipe."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from stages.errors import BadInput
from stages.schema.block import Block
from stages.schema.corpus import CORPORA, Corpus
from stages.schema.glue import GLUE
from stages.schema.task import Task
from stages.settings.baselines import Baseline, Recipe, TimeBaselines, add_built_in
from stages.settings.data import Base, Data, Pack, Prepare
from stages.settings.distill import Distill
from stages.settings.factorize import Factorize
from stages.settings.messages import format_errors
from stages.settings.pruning import Pretrain, Prune
from stages.settings.results import Benchmark, Compare, Evaluate, Export, Promote, Tracking
from stages.settings.training import Finetune


class Params(Block):
    """All of `params.yaml`."""

    renamed: ClassVar = {"race": "time_baselines"}

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
    recipes: Annotated[dict[str, Recipe], BeforeValidator(add_built_in), Field(validate_default=True)] = {}
    """Further ways to make a student, by name, each as what it changes in `factorize` and `distill`; they are added to
    the built-in ones (stages/settings/recipes.yaml), or replace one of them."""
    baseline: Baseline = Baseline()
    time_baselines: TimeBaselines = TimeBaselines()
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
    def _check_names(self) -> Self:
        for name in self.tasks:
            self.get_task(name)
        for name in self.corpora:
            self.get_corpus(name)
        lists: dict[str, list[Any]] = {"tasks": self.tasks, "corpora": self.corpora}
        lists |= {"baseline.recipes": self.baseline.recipes, "baseline.seeds": self.baseline.seeds}
        for setting, names in lists.items():
            if twice := sorted({str(name) for name in names if names.count(name) > 1}):
                raise ValueError(f"{setting} names {', '.join(twice)} twice")
        for name in self.baseline.recipes:
            if name not in self.recipes:
                known = ", ".join(self.recipes) or "none"
                raise ValueError(f"baseline.recipes names `{name}`; the recipes are {known}")
        missing = set(self.benchmark.variants) - set(self.export.variants)
        if missing:
            raise ValueError(f"benchmark.variants has {sorted(missing)}, which export.variants does not make")
        return self

    @model_validator(mode="after")
    def _check_recipes(self) -> Self:
        for name in self.recipes:
            try:
                self.resolve_recipe(name)
            except ValidationError as error:
                raise ValueError(f"recipes.{name} cannot work: {format_errors(error)}") from None
        return self

    def get_task(self, name: str) -> Task:
        """The row of a task: a custom one, or GLUE's.

        Raises:
            BadInput: there is none of that name.
        """
        known = GLUE | self.data.custom
        if name not in known:
            raise BadInput(f"tasks names `{name}`; known are {', '.join(known)}; describe your own under data.custom")
        return known[name]

    def get_corpus(self, name: str) -> Corpus:
        """The row of a corpus: a custom one, or the bundled one.

        Raises:
            BadInput: there is none of that name.
        """
        known = CORPORA | self.data.corpora
        if name not in known:
            raise BadInput(
                f"corpora names `{name}`; known are {', '.join(known)}; describe your own under data.corpora"
            )
        return known[name]

    def resolve_recipe(self, name: str) -> tuple[Factorize, Distill | None]:
        """The `factorize` and `distill` blocks of a recipe: the main chain's, changed by what it extends and by itself.

        Raises:
            ValueError: it extends a recipe that does not exist, or itself.
        """
        main = self.distill.model_dump()
        student: dict[str, Any] = self.factorize.model_dump()
        training: dict[str, Any] | None = main
        for recipe in self._lineage(name):
            student = merge(student, recipe.factorize)
            training = None if recipe.distill is None else _apply_recipe(training or main, recipe)
        return Factorize.model_validate(student), None if training is None else self._drop_unusable(training, name)

    def _drop_unusable(self, training: dict[str, Any], name: str) -> Distill:
        """The `distill` block of a recipe; what its objectives cannot use is off, unless a recipe names it.

        Those that compare inner states need the teacher running, those that use labels alone need no text but the
        data's.
        """
        objectives = Distill.model_validate(training | {"offline": None, "on_policy": None}).objectives
        unusable = {"offline": bool(objectives.inner_terms()), "on_policy": not objectives.use_teacher()}
        named = {key for recipe in self._lineage(name) for key in recipe.distill or {}}
        off = {key: None for key, useless in unusable.items() if useless and key not in named}
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


def _apply_recipe(training: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The `distill` block after a recipe's changes; the terms of its loss are those it names, if it names any."""
    changes = dict(recipe.distill or {})
    if isinstance(named := changes.pop("objectives", None), dict):
        terms = merge({name: training["objectives"].get(name) for name in named}, named)
        training = training | {"objectives": terms}
    return merge(training, changes)


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new` over `old`, nested dicts key by key."""
    both = {k: merge(old[k], v) if isinstance(v, dict) and isinstance(old.get(k), dict) else v for k, v in new.items()}
    return old | both
