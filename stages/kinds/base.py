"""What a kind of task, and a kind of corpus, has to say."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stages.schema.corpus import Corpus
from stages.schema.task import Row
from stages.settings import Base, Calibration, Distill, Evaluate, HeadTraining, Pack, TaskTraining

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy import ndarray
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from stages.distillation.masked_lm_trainer import MaskedLMTrainer
    from stages.graph.exporter import Exporter
    from stages.pruning.trainer import PruningTrainer
    from stages.tasks.predictions import Predictions
    from stages.tasks.preparation import Preparation
    from stages.tasks.scorers import Scorer
    from stages.timing.workloads import Workload
    from stages.training.train import Validation

R = TypeVar("R", bound=Row)
Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A model that others are compared with: the teacher."""

    folder: Path
    predictions: "Predictions"


class TaskKind(Generic[R]):
    """What the verbs do with a task of this kind."""

    def write_splits(self, given: "Preparation[R]") -> tuple[str, dict[str, Report]]:
        """Writes tokenized splits; returns the content's fingerprint and a report on each split.

        Raises:
            BadInput: the source, the tokenizer or a setting cannot work for this kind.
        """
        raise NotImplementedError

    def load_base(self, base: Base, task: R, *, complete: bool, setting: str = "base.model") -> "PreTrainedModel":
        """The base model as a model of this kind, in float32 if it is to be trained.

        Args:
            complete: it is taken as it is, head and all; otherwise a fresh head is drawn where the kind has one.

        Raises:
            BadInput: it cannot be loaded as that kind, or lacks weights.
        """
        raise NotImplementedError

    def get_finetuning_trainer(self) -> "type[Trainer]":
        """The Trainer of the kind's own loss on labels."""
        raise NotImplementedError

    def get_distillation_trainer(self, task: R, settings: Distill) -> "type[Trainer]":
        """The Trainer that distills.

        Raises:
            BadInput: a setting cannot work for this kind.
        """
        raise NotImplementedError

    def make_scorer(self, task: R) -> "Scorer":
        """How predictions are scored."""
        raise NotImplementedError

    def validate_finetuning(self, task: R, settings: TaskTraining) -> "Validation":
        """How a fine-tuning is validated."""
        from stages.training.train import validate_task

        return validate_task(self.make_scorer(task), settings)

    def validate_distillation(self, task: R, settings: TaskTraining) -> "Validation":
        """How a distillation is validated."""
        return self.validate_finetuning(task, settings)

    def label_by_teacher(self, logits: "ndarray") -> list[float]:
        """Labels (examples,) of unlabeled text from the teacher's logits (examples, outputs)."""
        raise NotImplementedError

    def predict_split(
        self,
        model: "PreTrainedModel",
        task: R,
        split: "Dataset",
        tokenizer: "PreTrainedTokenizerBase",
        settings: Evaluate,
        title: str,
        teacher: Reference | None = None,
    ) -> tuple["Predictions", Report]:
        """A model's predictions on a split, and further figures for its report; with a teacher the agreement (%)."""
        raise NotImplementedError

    def make_exporter(self, model: "PreTrainedModel", task: R, data: Path, max_length: int) -> "Exporter":
        """How the model becomes an ONNX graph, and is scored as one.

        Args:
            data: written by prepare.
            max_length: where texts are truncated, in tokens.
        """
        raise NotImplementedError

    def make_workload(self, data: Path) -> "Workload[Any]":
        """What is timed of an exported model."""
        raise NotImplementedError


class CorpusKind:
    """What the verbs do with a corpus: the language model that is trained on it before any task is known."""

    def load_tokenizer(self, base: Base, length: int) -> "PreTrainedTokenizerBase":
        """The base model's tokenizer.

        Raises:
            BadInput: it cannot be that of such a model, or the model reads less than blocks of that length.
        """
        raise NotImplementedError

    def write_blocks(
        self, corpus: Corpus, name: str, tokenizer: "PreTrainedTokenizerBase", settings: Pack, seed: int, folder: Path
    ) -> tuple[str, int, dict[str, Report]]:
        """Writes `train/` and `validation/`; returns the content's fingerprint, the number of tokens of the vocabulary
        in use, and a report on each split.

        Raises:
            BadInput: the corpus cannot be read, or fills no block.
        """
        raise NotImplementedError

    def load_teacher(self, base: Base) -> tuple["PreTrainedModel", frozenset[str]]:
        """The pretrained model, and the names of its head's parameters that are not in the checkpoint.

        Raises:
            BadInput: it has no such form, or lacks more than the head.
        """
        raise NotImplementedError

    def train_head(
        self,
        model: "PreTrainedModel",
        fresh: frozenset[str],
        tokenizer: "PreTrainedTokenizerBase",
        data: Path,
        settings: HeadTraining,
        seed: int,
    ) -> list[float]:
        """Trains a fresh head on the packed corpus; returns the loss of each step, in nats per predicted token."""
        raise NotImplementedError

    def open_checkpoint(self, folder: Path) -> "PreTrainedModel":
        """A model of this kind that a stage saved, on the CPU."""
        raise NotImplementedError

    def make_trainer_options(self, tokenizer: "PreTrainedTokenizerBase", settings: Pack, seed: int) -> dict[str, Any]:
        """Further arguments of the trainers."""
        raise NotImplementedError

    def get_distillation_trainer(self) -> "type[MaskedLMTrainer]":
        """The Trainer that distills at a fixed size."""
        raise NotImplementedError

    def get_pruning_trainer(self) -> "type[PruningTrainer]":
        """The Trainer that distills and prunes."""
        raise NotImplementedError

    def make_calibration_batches(
        self, blocks: "Dataset", calibration: Calibration, tokenizer: "PreTrainedTokenizerBase", packed: Pack, seed: int
    ) -> "Iterator[dict[str, Tensor]]":
        """Batches of text from all over the corpus; nothing is read until the first is consumed."""
        raise NotImplementedError

    def make_validation(self) -> "Validation":
        """How a training is validated."""
        raise NotImplementedError

    def score_blocks(
        self,
        model: "PreTrainedModel",
        teacher: "PreTrainedModel",
        blocks: "Dataset",
        batch_size: int,
        title: str,
    ) -> dict[str, float]:
        """A model's scores on validation blocks, compared with its teacher."""
        raise NotImplementedError
