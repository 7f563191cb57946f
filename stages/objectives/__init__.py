"""Knowledge distillation objectives. One small class per objective; its fields are its settings.

Every objective is a mean over the batch's examples of a value of each example alone: how a batch is padded, split
over accumulation steps, or spread over processes never changes the sum. Torch is imported when an objective is called,
so that settings and `--help` stay light.
"""

from stages.objectives.attention import AttentionKL, AttentionMSE, Relations
from stages.objectives.base import Objective, Ramp
from stages.objectives.contrastive import Contrastive
from stages.objectives.divergences import AKL, JSD, KL, TVD, ReverseKL, SkewKL, SkewReverseKL
from stages.objectives.hidden import Embedding, HiddenCosine, HiddenStates
from stages.objectives.logits import Hard, LogitMSE
from stages.objectives.matrices import Matrices
from stages.objectives.ranking import Ranking
from stages.schema.block import Block

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


class Objectives(Block):
    """The terms of the loss by name: those that are given count."""

    hard: Hard | None = None
    """Prediction: cross-entropy with the labels (squared error for regression)."""
    kl: KL | None = None
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
    """Prediction: adaptive KL: `kl` and `reverse_kl`, weighted by where the student errs."""
    ranking: Ranking | None = None
    """Prediction: RLKD's ranking loss, the order of the most probable classes; added to a divergence."""
    logit_mse: LogitMSE | None = None
    """Prediction: squared distance from the teacher's logits."""
    attention_kl: AttentionKL | None = None
    """Layer level: divergence from the teacher's attention maps."""
    attention_mse: AttentionMSE | None = None
    """Layer level: squared distance from the teacher's attention scores."""
    relations: Relations | None = None
    """Layer level: divergence between relations of queries, keys and values; any widths and head counts."""
    hidden: HiddenStates | None = None
    """Layer level: distance from the teacher's hidden states."""
    hidden_cosine: HiddenCosine | None = None
    """Layer level: cosine distance from the teacher's hidden states."""
    embedding: Embedding | None = None
    """Layer level: distance from the teacher's embeddings."""
    contrastive: Contrastive | None = None
    """Layer level: contrastive distillation of the first token's last hidden state."""
    matrices: Matrices | None = None
    """Matrix level: distance from the outputs of the teacher's Q, K, V, up and down matrices."""

    def active_terms(self) -> dict[str, Objective]:
        """The terms that count: not null and of a weight above 0 at some time."""
        terms = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: term for name, term in terms.items() if term is not None and term.is_active}

    def use_teacher(self) -> bool:
        """Whether any term that counts compares with the teacher."""
        return any(term.uses_teacher for term in self.active_terms().values())

    def inner_terms(self) -> list[str]:
        """Terms that count and compare inner states of the teacher, not only its logits."""
        return [name for name, term in self.active_terms().items() if term.captured_aspects("teacher")]
