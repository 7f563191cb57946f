"""What texts with classes and texts with values have in common."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages.errors import BadInput
from stages.kinds.base import Reference, Report, TaskKind
from stages.schema.task import ClassificationTask, RegressionTask
from stages.settings import Base, Distill, Evaluate

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy import ndarray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from stages.tasks.predictions import Predictions
    from stages.tasks.preparation import Preparation
    from stages.timing.workloads import Workload

L = TypeVar("L", ClassificationTask, RegressionTask)


class LabeledKind(TaskKind[L]):
    """Texts or pairs in, a row of outputs each out."""

    def list_labels(self, task: L) -> Sequence[str]:
        """Names of the classes; none of values."""
        raise NotImplementedError

    def load_examples(self, given: "Preparation[L]") -> "dict[str, Dataset]":
        """The splits with columns text, text_pair (pairs only), labels."""
        raise NotImplementedError

    def describe_labels(self, task: L, labels: list[Any]) -> Report:
        """What to report of a split's labels."""
        raise NotImplementedError

    def measure_agreement(self, student: "ndarray", teacher: "ndarray") -> float:
        """How far two models agree, in %; logits (examples, outputs) of both."""
        raise NotImplementedError

    def write_splits(self, given: "Preparation[L]") -> tuple[str, dict[str, Report]]:
        from stages.tasks.labeled import write_labeled_splits

        return write_labeled_splits(given, self.load_examples, lambda labels: self.describe_labels(given.task, labels))

    def load_base(self, base: Base, task: L, *, complete: bool, setting: str = "base.model") -> "PreTrainedModel":
        from stages.models.loading import load_classifier

        return load_classifier(base, self.list_labels(task), setting=setting, complete=complete)

    def get_finetuning_trainer(self) -> "type[Trainer]":
        from stages.training.data_order import OrderedTrainer

        return OrderedTrainer

    def get_distillation_trainer(self, task: L, settings: Distill) -> "type[Trainer]":
        from stages.distillation.trainer import DistillationTrainer

        if settings.on_policy:
            raise BadInput(
                "distill.on_policy is for causal_lm tasks, whose student generates text, and this one is a "
                f"{task.kind}; set it to null"
            )
        return DistillationTrainer

    def predict_split(
        self,
        model: "PreTrainedModel",
        task: L,
        split: "Dataset",
        tokenizer: "PreTrainedTokenizerBase",
        settings: Evaluate,
        title: str,
        teacher: Reference | None = None,
    ) -> tuple["Predictions", Report]:
        from stages.tasks.batches import predict_logits

        predictions = predict_logits(model, split, tokenizer, settings.batch_size, title)
        if teacher is None:
            return predictions, {}
        return predictions, {"agreement": self.measure_agreement(predictions.values, teacher.predictions.values)}

    def make_workload(self, data: Path) -> "Workload[Any]":
        from stages.timing.workloads import RequestWorkload

        return RequestWorkload(data)


def count_classes(names: Sequence[str], labels: list[int]) -> dict[str, int]:
    """Examples of each class."""
    counts = Counter(labels)
    return {name: counts[i] for i, name in enumerate(names)}
