"""The block of knowledge distillation."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.objectives import KL, AttentionKL, HiddenStates, Matrices, Objectives
from stages.schema.block import Block, Count, ShareOrNone
from stages.settings.training import TaskTraining


class Offline(Block):
    """Offline distillation: the teacher's logits on the training split, computed once and cached on disk; no epoch runs
    the teacher.
    """

    k: Count = 64
    """Largest logits to cache of each example, or for a causal_lm of each predicted token. The others get the remaining
    mass in equal parts; with no more than k classes there are none, and nothing is lost."""
    dtype: Literal["float16", "float32"] = "float16"
    """Precision of what is cached: each logit's distance from the largest."""


class OnPolicy(Block):
    """On-policy distillation: batches that the student generates itself; it is compared with the teacher on its own
    text, errors included (GKD).

    It continues the batch's prompts; of a chat, what comes before the last response; of plain text, the beginning of a
    block. What it generates has no labels: `hard` does not count there.
    """

    renamed: ClassVar = {"new_tokens": "max_new_tokens"}

    share: ShareOrNone = 0.5
    """λ: share of the steps, drawn with the seed, whose batches the student generates; the others read the data's
    text."""
    max_new_tokens: Count = 64
    """Most tokens that it generates for a text; those of a block of plain text take the place of its last ones."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Its logits are divided by this before a token is drawn; 0 takes the most probable."""


class Distill(TaskTraining):
    """Teacher and low-rank student in; the recovered student out (MaKD)."""

    renamed: ClassVar = TaskTraining.renamed | {
        "stage_shares": "phase_shares",
        "hierarchy: layers": "hierarchy: joint",
        "hierarchy: stages": "hierarchy: progressive",
        "hierarchy: rotate": "hierarchy: rotating",
    }

    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """Peak learning rate of AdamW; with all of MaKD's terms higher than fine-tuning or logits alone bear."""
    objectives: Objectives = Objectives(kl=KL(), attention_kl=AttentionKL(), hidden=HiddenStates(), matrices=Matrices())
    """What the student is compared on: the terms named here, each with a weight and its own settings. The default is
    MaKD: prediction, layer level, matrix level. null or weight 0 is not computed."""
    hierarchy: Literal["joint", "progressive", "rotating"] = "progressive"
    """`joint`: all terms at once. `progressive`: three phases: layer level, then the matrix level too, then prediction
    only. `rotating`: a third of the layers per step in turn."""
    phase_shares: tuple[ShareOrNone, ShareOrNone, ShareOrNone] = (0.3, 0.3, 0.4)
    """For `progressive`: shares of the steps that the three phases take; they sum to 1, and 0 leaves a phase out.
    One in which no objective counts leaves its steps to the others."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in the student while it is distilled; 0 lets it match the teacher exactly."""
    augmented: bool = False
    """Also train on the sentences that `prepare.augment` made, labeled by the teacher; epochs pass over both."""
    offline: Offline | None = None
    """Cache the teacher's logits before the training and read them from disk: for more than one epoch of objectives
    that compare nothing else. null: the teacher runs in every step. Or:"""
    on_policy: OnPolicy | None = None
    """Of a causal_lm: let the student generate a share of the batches. null: all are the data's. Or:"""
    gradient_norms: bool = False
    """Also log each term's gradient norm (one more backward pass per term at each logged step)."""

    @model_validator(mode="after")
    def _require_terms(self) -> Self:
        if abs(sum(self.phase_shares) - 1) > 1e-6:
            raise ValueError(f"phase_shares must sum to 1, not {sum(self.phase_shares):g}")
        if not self.objectives.active_terms():
            raise ValueError("objectives has no term with a weight above 0; give `kl` or `hard` one")
        return self

    @model_validator(mode="after")
    def _check_on_policy(self) -> Self:
        if self.on_policy and self.offline:
            raise ValueError(
                "offline caches the teacher's logits on the data's text, and on_policy needs them on the student's; "
                "set one of them to null"
            )
        if self.on_policy and not self.objectives.use_teacher():
            raise ValueError(
                "on_policy needs an objective that compares with the teacher, and these use labels alone; give `kl` a "
                "weight, or set on_policy to null"
            )
        return self

    @model_validator(mode="after")
    def _check_offline(self) -> Self:
        if self.offline is None:
            return self
        if inner := self.objectives.inner_terms():
            raise ValueError(
                f"offline caches the teacher's logits and not its inner states, which {', '.join(inner)} compare; set "
                "those objectives to null, or offline"
            )
        for name, term in self.objectives.active_terms().items():
            if term.required_top_k > self.offline.k:
                raise ValueError(
                    f"offline.k {self.offline.k} caches fewer classes than the {term.required_top_k} whose order "
                    f"objectives.{name} compares; set it to {term.required_top_k} or more"
                )
        return self
