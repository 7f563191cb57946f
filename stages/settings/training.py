"""The blocks of trainings: what every one has, and the teacher's."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stages.schema.block import Block, Count


class Training(Block):
    """What every training has; the loop itself is Transformers' Trainer."""

    renamed: ClassVar = {"warmup": "warmup_ratio"}

    epochs: Annotated[float, Field(gt=0)] = 3
    """Passes over the training split."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Peak learning rate of AdamW; warmed up linearly, then decayed linearly to 0."""
    batch_size: Count = 32
    """Examples per device and step."""
    gradient_accumulation: Count = 1
    """Batches per optimizer step; 8x1 and 2x4 give the same step."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decoupled weight decay, on matrices only."""
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Mixed precision. `auto`: bfloat16 autocast on a GPU that has it, float32 elsewhere."""
    evaluations_per_epoch: Count = 1
    """How often the validation metric is taken, and a checkpoint with it."""
    log_every: Count = 10
    """Steps between two logged points."""


class TaskTraining(Training):
    """Training on a task; the checkpoint with the best validation score is kept."""

    group_by_length: bool = True
    """Batches of similar lengths: less padding, faster steps."""
    patience: Count | None = None
    """Early stopping: after this many evaluations without a better score; null trains to the end."""


class Finetune(TaskTraining):
    """A base model in; the task's teacher out."""

    epochs: Annotated[float, Field(ge=0)] = 3
    """Passes over the training split; 0 takes base.model as it is, which must then have all weights, its head's too."""
