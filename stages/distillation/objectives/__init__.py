"""What the student is compared with its teacher on. One small class per objective; its fields are its settings.

Every objective is a mean over the batch's examples of a value of each example alone: how a batch is padded, split
over accumulation steps, or spread over processes never changes the sum. Torch is imported by the distances only,
when they are called, so that settings and `--help` stay light.
"""

from pydantic import BaseModel, ConfigDict

from stages.distillation.objectives.attention import AttentionKL
from stages.distillation.objectives.base import Objective
from stages.distillation.objectives.hidden import HiddenStates
from stages.distillation.objectives.logits import KL, Hard
from stages.distillation.objectives.matrices import Matrices

__all__ = ["KL", "AttentionKL", "Hard", "HiddenStates", "Matrices", "Objective", "Objectives"]


class Objectives(BaseModel):
    """The terms of the loss by name. The default is MaKD: prediction, layer level, matrix level."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hard: Hard | None = None
    """Cross-entropy with the labels (squared error for regression)."""
    kl: KL | None = KL()
    """Prediction: divergence from the teacher's softened output."""
    attention_kl: AttentionKL | None = AttentionKL()
    """Layer level: divergence from the teacher's attention distributions."""
    hidden: HiddenStates | None = HiddenStates()
    """Layer level: distance from the teacher's hidden states."""
    matrices: Matrices | None = Matrices()
    """Matrix level: distance from the outputs of the teacher's Q, K, V, up and down matrices."""

    def active(self) -> dict[str, Objective]:
        """The terms that count: not null and of a weight above 0."""
        terms = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: term for name, term in terms.items() if term is not None and term.weight > 0}
