"""The blocks of pruning a pretrained model on a corpus, before any task is known."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.distillation.objectives import KL, AttentionMSE, Embedding, Hard, HiddenStates, Objectives
from stages.settings.block import Block, Count, ShareOrNone
from stages.settings.data import Base, Warmup
from stages.settings.models import Factorize, Training


class Pretrain(Block):
    """A pretrained encoder in; the masked-language-model teacher of a corpus out."""

    base: Base = Base()
    """The model to make smaller; `pack` takes its tokenizer."""
    head: Warmup = Warmup(steps=500, trains="head", learning_rate=1e-3)
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
    def _one_is_given(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("a target is one of hidden_size, budget and params, or a share of the width like 0.5")
        return self


class Prune(Training):
    """A pretrained model and a corpus in; smaller pretrained models, of any task, out (HomoDistil)."""

    targets: Annotated[list[Annotated[float, Field(gt=0, lt=1)] | Target], Field(min_length=1)] = [0.5]
    """Sizes to save a model at, wide to narrow, all in one run, each with an equal part of the training: shares of the
    width, such as [0.75, 0.5], or one of:"""
    start: Factorize | None = None
    """Cut the student at once instead, as `factorize` does, and train it at that size: {layers: every, budget: 0.5}.
    Nothing is pruned then, and `targets` do not count; what the cut leaves over the budget is factorized away, with
    text of the corpus for calibration."""
    importance: Literal["platon", "sensitivity", "magnitude", "random"] = "platon"
    """What says which dimensions go: the loss's gradients times the weights, smoothed, and with `platon` times how much
    they vary; the weights' size; or nothing."""
    betas: tuple[ShareOrNone, ShareOrNone] = (0.85, 0.95)
    """How slowly importance and its variation follow the gradients; 0 takes the last step's."""
    schedule: Literal["cubic", "oneshot"] = "cubic"
    """`oneshot` prunes to the target at once, when the learning rate has warmed up."""
    reached: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Share of a target's part of the training after which it has its size."""
    every: Count = 10
    """Steps between two cuts."""
    objectives: Objectives = Objectives(
        hard=Hard(),
        kl=KL(temperature=1.0),
        attention_kl=None,
        attention_mse=AttentionMSE(),
        hidden=HiddenStates(),
        embedding=Embedding(),
        matrices=None,
    )
    """What the student is compared on while it shrinks."""
    epochs: Annotated[float, Field(gt=0)] = 3
    """Passes over the corpus, for all targets together."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """Peak learning rate of AdamW; it rises and falls once for each target."""
    validation_blocks: Count | None = 512
    """Score on the first this many blocks of the validation text; null takes all."""

    @model_validator(mode="after")
    def _prunes_after_the_warm_up(self) -> Self:
        if self.reached <= self.warmup:
            raise ValueError(f"reached {self.reached:g} must come after warmup {self.warmup:g}")
        if self.start and self.start.start:
            raise ValueError(f"start.start {self.start.start} is for `factorize`; pretrain.base says what is cut here")
        if not self.objectives.active():
            raise ValueError("objectives has no term with a weight above 0; give `kl` or `hard` one")
        return self
