"""Kind `regression`: texts or pairs in, a value out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.kinds.base import Report
from stages.kinds.labeled import LabeledKind
from stages.schema.task import RegressionTask

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy import ndarray
    from transformers import PreTrainedModel

    from stages.graph.exporter import Exporter
    from stages.tasks.preparation import Preparation
    from stages.tasks.scorers import Scorer


class Regression(LabeledKind[RegressionTask]):
    """Squared error; the only output is the value."""

    def list_labels(self, task: RegressionTask) -> Sequence[str]:
        return []

    def load_examples(self, given: "Preparation[RegressionTask]") -> "dict[str, Dataset]":
        from stages.tasks.examples import read_value_examples
        from stages.tasks.sources import load_examples

        return load_examples(given, read_value_examples)

    def describe_labels(self, task: RegressionTask, labels: list[Any]) -> Report:
        return {"value_min": min(labels), "value_max": max(labels)}

    def make_scorer(self, task: RegressionTask) -> "Scorer":
        from stages.tasks.scorers import ValueScorer

        return ValueScorer(task.metrics)

    def label_by_teacher(self, logits: "ndarray") -> list[float]:
        return logits[:, 0].tolist()

    def measure_agreement(self, student: "ndarray", teacher: "ndarray") -> float:
        """The Pearson correlation times 100."""
        import numpy as np

        return 100 * float(np.corrcoef(student[:, 0], teacher[:, 0])[0, 1])

    def make_exporter(self, model: "PreTrainedModel", task: RegressionTask, data: Path, max_length: int) -> "Exporter":
        from stages.graph.classifier import RegressionExporter

        return RegressionExporter(model, task, self.make_scorer(task), data, max_length)


KIND = Regression()
