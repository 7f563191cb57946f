"""What the student is compared with its teacher on. One small class per objective; its fields are its settings.

Every objective is a mean over the batch's examples of a value of each example alone: how a batch is padded, split
over accumulation steps, or spread over processes never changes the sum. Torch is imported by the distances only,
when they are called, so that settings and `--help` stay light.
"""

from pydantic import BaseModel, ConfigDict

from stages.distillation.objectives.attention import AttentionKL, AttentionMSE, Relations
from stages.distillation.objectives.base import Objective, Ramp
from stages.distillation.objectives.contrastive import Contrastive
from stages.distillation.objectives.hidden import Embedding, HiddenCosine, HiddenStates
from stages.distillation.objectives.logits import KL, Hard, LogitMSE
from stages.distillation.objectives.matrices import Matrices

__all__ = [
    "KL",
    "AttentionKL",
    "AttentionMSE",
    "Contrastive",
    "Embedding",
    "Hard",
    "HiddenCosine",
    "HiddenStates",
    "LogitMSE",
    "Matrices",
    "Objective",
    "Objectives",
    "Ramp",
    "Relations",
]


class Objectives(BaseModel):
    """The terms of the loss by name. The default is MaKD: prediction, layer level, matrix level."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hard: Hard | None = None
    """Prediction: cross-entropy with the labels (squared error for regression)."""
    kl: KL | None = KL()
    """Prediction: divergence from the teacher's softened output."""
    logit_mse: LogitMSE | None = None
    """Prediction: squared distance from the teacher's logits."""
    attention_kl: AttentionKL | None = AttentionKL()
    """Layer level: divergence from the teacher's attention distributions."""
    attention_mse: AttentionMSE | None = None
    """Layer level: squared distance from the teacher's attention scores."""
    relations: Relations | None = None
    """Layer level: divergence between relations of queries, keys and values; any widths and head counts."""
    hidden: HiddenStates | None = HiddenStates()
    """Layer level: distance from the teacher's hidden states."""
    hidden_cosine: HiddenCosine | None = None
    """Layer level: angle to the teacher's hidden states."""
    embedding: Embedding | None = None
    """Layer level: distance from the teacher's embeddings."""
    contrastive: Contrastive | None = None
    """Layer level: the teacher's summary of a text told from those of other classes."""
    matrices: Matrices | None = Matrices()
    """Matrix level: distance from the outputs of the teacher's Q, K, V, up and down matrices."""

    def active(self) -> dict[str, Objective]:
        """The terms that count: not null and of a weight above 0 at some time."""
        terms = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: term for name, term in terms.items() if term is not None and _counts(term)}


def _counts(term: Objective) -> bool:
    return term.weight.start + term.weight.end > 0 if isinstance(term.weight, Ramp) else term.weight > 0
