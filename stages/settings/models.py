"""The blocks that make models: the teacher, the student, its training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.distillation.objectives import Objectives
from stages.settings.block import Block, Count, ShareOrNone


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
    evaluations_per_epoch: Count = 1
    """How often the validation metric is taken, and a checkpoint with it."""
    log_every: Count = 10
    """Steps between two logged points."""


class TaskTraining(Training):
    """Training on a task; the checkpoint with the best validation score is kept."""

    group_by_length: bool = True
    """Batches of similar lengths: less padding, faster steps."""
    patience: Count | None = None
    """Stop after this many evaluations without a better score; null trains to the end."""


class Finetune(TaskTraining):
    """A base model in; the task's teacher out."""

    epochs: Annotated[float, Field(ge=0)] = 3
    """Passes over the training split; 0 takes base.model as it is, which must then have all weights, its head's too."""


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
    start: str | None = None
    """A smaller pretrained model with the teacher's vocabulary to start from, such as one of `prune`'s: a folder or a
    hub id. It takes the place of the teacher's own layers; null: those."""
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
    rank_rule: Literal["ratio", "uniform", "global", "speed"] = "global"
    """`ratio`: every matrix the same share. `uniform`: one rank for all. `global`: ranks go where they save the most
    output error per parameter; `speed`: per multiplication, of which a last layer that the head reads one token of
    costs next to none."""
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
        if self.start and (self.layers != "all" or self.hidden_size or self.intermediate_size):
            raise ValueError(f"start {self.start} is taken as it is; take layers, hidden_size, intermediate_size out")
        return self


class Offline(Block):
    """What the teacher says of the training split, computed once and kept on disk; no epoch runs the teacher then."""

    k: Count = 64
    """Largest logits to keep of each example, or of a causal_lm of each token that is asked for. The others get what
    mass is left in equal parts; with no more than k classes there are none, and nothing is lost."""
    dtype: Literal["float16", "float32"] = "float16"
    """Precision of what is kept: each logit's distance from the largest."""


class OnPolicy(Block):
    """Batches that the student writes itself: it is compared with the teacher on its own text, errors included (GKD).

    It goes on from the batch's prompts; of a chat, from what stands before the last response; of plain text, from the
    beginning of a block. What it writes has no labels: `hard` does not count there.
    """

    share: ShareOrNone = 0.5
    """λ: share of the steps, drawn with the seed, whose batches the student writes; the others read the data's text."""
    new_tokens: Count = 64
    """Most tokens that it writes of a text; those of a block of plain text take the place of its last ones."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Its logits are divided by this before a token is drawn; 0 takes the likeliest."""


class Distill(TaskTraining):
    """Teacher and low-rank student in; the recovered student out (MaKD)."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """Peak learning rate of AdamW; with all of MaKD's terms higher than fine-tuning or logits alone bear."""
    objectives: Objectives = Objectives()
    """What the student is compared on, each with a weight and its own settings; null or weight 0 is not computed."""
    hierarchy: Literal["layers", "stages", "rotate"] = "stages"
    """`layers`: all terms at once. `stages`: layer level, then the matrix level too, then prediction only.
    `rotate`: a third of the layers per step in turn."""
    stage_shares: tuple[ShareOrNone, ShareOrNone, ShareOrNone] = (0.3, 0.3, 0.4)
    """For `stages`: shares of the steps that the three stages take; they sum to 1, and 0 leaves a stage out.
    One in which no objective counts leaves its steps to the others."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in the student while it is distilled; 0 lets it match the teacher exactly."""
    augmented: bool = False
    """Also train on the sentences that `prepare.augment` made, as the teacher labels them; epochs pass over both."""
    offline: Offline | None = None
    """Write what the teacher says to disk before the training and read it there: for more than one epoch of objectives
    that compare nothing else. null: the teacher runs in every step. Or:"""
    on_policy: OnPolicy | None = None
    """Of a causal_lm: let the student write a share of the batches. null: all are the data's. Or:"""
    gradient_norms: bool = False
    """Also log each term's gradient norm (one more backward pass per term at each logged step)."""

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        if abs(sum(self.stage_shares) - 1) > 1e-6:
            raise ValueError(f"stage_shares must sum to 1, not {sum(self.stage_shares):g}")
        if not self.objectives.active():
            raise ValueError("objectives has no term with a weight above 0; give `kl` or `hard` one")
        return self

    @model_validator(mode="after")
    def _on_policy_has_a_teacher(self) -> Self:
        if self.on_policy and self.offline:
            raise ValueError(
                "offline keeps what the teacher says of the data's text, and on_policy asks it about the student's; "
                "set one of them to null"
            )
        if self.on_policy and not self.objectives.compare():
            raise ValueError(
                "on_policy needs an objective that asks the teacher, and these look at labels alone; give `kl` a "
                "weight, or set on_policy to null"
            )
        return self

    @model_validator(mode="after")
    def _offline_has_what_is_compared(self) -> Self:
        if self.offline is None:
            return self
        if inner := self.objectives.inner():
            raise ValueError(
                f"offline keeps what the teacher says and not its inner states, which {', '.join(inner)} compare; set "
                "those objectives to null, or offline"
            )
        for name, term in self.objectives.active().items():
            if term.ordered > self.offline.k:
                raise ValueError(
                    f"offline.k {self.offline.k} keeps fewer classes than the {term.ordered} whose order "
                    f"objectives.{name} compares; set it to {term.ordered} or more"
                )
        return self
