"""Kind `classification`: texts or pairs in, one of several classes out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.kinds.base import Report
from stages.kinds.labeled import LabeledKind, count_classes
from stages.schema.task import ClassificationTask

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy import ndarray
    from transformers import PreTrainedModel

    from stages.graph.exporter import Exporter
    from stages.tasks.preparation import Preparation
    from stages.tasks.scorers import Scorer


class Classification(LabeledKind[ClassificationTask]):
    """Cross-entropy; the predicted class has the largest logit."""

    def list_labels(self, task: ClassificationTask) -> Sequence[str]:
        return task.labels

    def load_examples(self, given: "Preparation[ClassificationTask]") -> "dict[str, Dataset]":
        from stages.tasks.examples import read_class_examples
        from stages.tasks.sources import load_examples

        return load_examples(given, read_class_examples, stratify=True)

    def describe_labels(self, task: ClassificationTask, labels: list[Any]) -> Report:
        return {"labels": count_classes(task.labels, labels)}

    def make_scorer(self, task: ClassificationTask) -> "Scorer":
        from stages.tasks.scorers import ClassScorer

        return ClassScorer(task.metrics, classes=len(task.labels))

    def label_by_teacher(self, logits: "ndarray") -> list[float]:
        return logits.argmax(-1).tolist()

    def measure_agreement(self, student: "ndarray", teacher: "ndarray") -> float:
        """The share of equal predictions."""
        return 100 * float((student.argmax(-1) == teacher.argmax(-1)).mean())

    def make_exporter(
        self, model: "PreTrainedModel", task: ClassificationTask, data: Path, max_length: int
    ) -> "Exporter":
        from stages.graph.classifier import ClassifierExporter

        return ClassifierExporter(model, task, self.make_scorer(task), data, max_length)


KIND = Classification()
