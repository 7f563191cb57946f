"""The blocks of pruning a pretrained model on a corpus, before any task is known (task-agnostic distillation)."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.objectives import KL, AttentionMSE, Embedding, Hard, HiddenStates, Objectives
from stages.schema.block import Block, Count, ShareOrNone
from stages.settings.data import Base, HeadTraining
from stages.settings.factorize import Factorize
from stages.settings.training import Training


class Pretrain(Block):
    """A pretrained encoder in; the masked-language-model teacher of a corpus out."""

    base: Base = Base()
    """The model to make smaller; `pack` takes its tokenizer."""
    head: HeadTraining = HeadTraining(steps=500, trains="head", learning_rate=1e-3)
    """How a checkpoint that has no masked-LM head gets one; what has one is taken as it is."""


class Target(Block):
    """How large a pruned model is to be; exactly one of these."""

    hidden_size: Count | None = None
    """Width of the residual stream, a multiple of the head count; the feed-forward is cut in the same share."""
    budget: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the layers' parameters."""
    params: Count | None = None
    """All parameters, embeddings and masked-LM head included."""

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("a target is one of hidden_size, budget and params, or a share of the width like 0.5")
        return self


class Prune(Training):
    """A pretrained model and a corpus in; smaller pretrained models, of any task, out (HomoDistil)."""

    renamed: ClassVar = Training.renamed | {"start": "factorize", "reached": "pruning_end"}

    targets: Annotated[list[Annotated[float, Field(gt=0, lt=1)] | Target], Field(min_length=1)] = [0.5]
    """Sizes to save a model at, wide to narrow, all in one run, each with an equal part of the training: shares of the
    width, such as [0.75, 0.5], or one of:"""
    factorize: Factorize | None = None
    """Cut the student at once instead, as the stage `factorize` does, and train it at that size: {layers: every,
    budget: 0.5}. Nothing is pruned then, and `targets` do not count; what the cut leaves over the budget is factorized
    away, with text of the corpus for calibration."""
    importance: Literal["platon", "sensitivity", "magnitude", "random"] = "platon"
    """Importance of a dimension: `sensitivity`: the loss's gradients times the weights, smoothed; `platon`: the same
    times their uncertainty; `magnitude`: the weights' size; or `random`."""
    betas: tuple[ShareOrNone, ShareOrNone] = (0.85, 0.95)
    """How slowly importance and its uncertainty follow the gradients; 0 takes the last step's."""
    schedule: Literal["cubic", "oneshot"] = "cubic"
    """`cubic`: a few dimensions at a time. `oneshot`: down to the target at once, when the learning rate has warmed
    up."""
    pruning_end: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Share of a target's part of the training after which it has its size."""
    every: Count = 10
    """Steps between two cuts."""
    objectives: Objectives = Objectives(
        hard=Hard(), kl=KL(temperature=1.0), attention_mse=AttentionMSE(), hidden=HiddenStates(), embedding=Embedding()
    )
    """What the student is compared on while it shrinks."""
    epochs: Annotated[float, Field(gt=0)] = 3
    """Passes over the corpus, for all targets together."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """Peak learning rate of AdamW; it rises and falls once for each target."""
    validation_blocks: Count | None = 512
    """Score on the first this many blocks of the validation text; null takes all."""

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.pruning_end <= self.warmup_ratio:
            raise ValueError(f"pruning_end {self.pruning_end:g} must be above warmup_ratio {self.warmup_ratio:g}")
        if self.factorize and self.factorize.pretrained_student:
            raise ValueError(
                f"factorize.pretrained_student {self.factorize.pretrained_student} is for the stage `factorize`; "
                "pretrain.base says what is cut here"
            )
        if not self.objectives.active_terms():
            raise ValueError("objectives has no term with a weight above 0; give `kl` or `hard` one")
        return self
