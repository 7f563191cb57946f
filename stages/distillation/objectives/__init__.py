"""What the student is compared with its teacher on. One small class per objective; its fields are its settings.

Every objective is a mean over the batch's examples of a value of each example alone: how a batch is padded, split
over accumulation steps, or spread over processes never changes the sum. Torch is imported by the distances only,
when they are called, so that settings and `--help` stay light.
"""

from pydantic import BaseModel, ConfigDict

from stages.distillation.objectives.attention import AttentionKL, AttentionMSE, Relations
from stages.distillation.objectives.base import Objective, Ramp
from stages.distillation.objectives.contrastive import Contrastive
from stages.distillation.objectives.divergences import AKL, JSD, KL, TVD, ReverseKL, SkewKL, SkewReverseKL
from stages.distillation.objectives.hidden import Embedding, HiddenCosine, HiddenStates
from stages.distillation.objectives.logits import Hard, LogitMSE
from stages.distillation.objectives.matrices import Matrices
from stages.distillation.objectives.ranking import Ranking

__all__ = [
    "AKL",
    "JSD",
    "KL",
    "TVD",
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
    "Ranking",
    "Relations",
    "ReverseKL",
    "SkewKL",
    "SkewReverseKL",
]


class Objectives(BaseModel):
    """The terms of the loss by name. The default is MaKD: prediction, layer level, matrix level."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hard: Hard | None = None
    """Prediction: cross-entropy with the labels (squared error for regression)."""
    kl: KL | None = KL()
    """Prediction: divergence from the teacher's softened output."""
    reverse_kl: ReverseKL | None = None
    """Prediction: divergence of the teacher's softened output from the student's."""
    jsd: JSD | None = None
    """Prediction: divergence of both softened outputs from a mixture of the two."""
    skew_kl: SkewKL | None = None
    """Prediction: divergence from the teacher's softened output of the student's mixed with a little of it."""
    skew_reverse_kl: SkewReverseKL | None = None
    """Prediction: divergence from the student's softened output of the teacher's mixed with a little of it."""
    tvd: TVD | None = None
    """Prediction: total variation distance between the softened outputs."""
    akl: AKL | None = None
    """Prediction: `kl` and `reverse_kl`, by where the student errs: at the teacher's likely classes or elsewhere."""
    ranking: Ranking | None = None
    """Prediction: how far the order of the most probable classes is from the teacher's; beside a divergence."""
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

    def compare(self) -> bool:
        """Whether one that counts looks at the teacher."""
        return any(term.compares for term in self.active().values())

    def inner(self) -> list[str]:
        """Those that count and compare more than what the teacher says."""
        return [name for name, term in self.active().items() if term.aspects("teacher")]


def _counts(term: Objective) -> bool:
    return term.weight.start + term.weight.end > 0 if isinstance(term.weight, Ramp) else term.weight > 0
