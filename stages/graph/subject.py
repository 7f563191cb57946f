"""What is exported: a model of one kind, as the folder in the making (folder.py) sees it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy import ndarray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stages.graph.quantize import Batch
    from stages.tasks import Task


class Subject(Protocol):
    """A model of one kind: how it is traced, fed, compared with PyTorch and scored."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    facts: dict[str, Any]
    """What the manifest says of this kind of model."""
    metric: str
    """The figure that reduced variants have to keep, in points."""

    def write_beside(self, folder: Path) -> None:
        """The files of this kind beside config and tokenizer."""

    def trace(self, path: Path, opset: int) -> None:
        """Writes the graph."""

    def feeds(self, graph: Path, count: int, seed: int) -> "list[Batch]":
        """Inputs of the graph from that many training examples, without padding."""

    def compare(self, graph: Path) -> dict[str, float]:
        """`difference`: largest |logit of the graph - logit of PyTorch|; and what else tells how near it is."""

    def score(self, folder: Path, variant: str) -> "tuple[dict[str, float], ndarray | None]":
        """Metrics (points) on the validation split through the finished folder, and each prediction's class."""

    def check_score(self, found: float, evaluated: float) -> None:
        """Raises BadInput where the graph's score is not the evaluation's."""


def subject(folder: Path, task: "Task", data: Path, max_length: int) -> Subject:
    """The model in a folder as what it is: one that can generate is a language model.

    Args:
        data: what prepare froze.
        max_length: where a classifier truncates texts, in tokens.
    """
    from stages.graph.classifier import Classifier
    from stages.graph.language_model import LanguageModel
    from stages.models.base import load

    model = load(folder)
    if model.can_generate():
        return LanguageModel(model, data, metric=task.metrics[0])
    return Classifier(model, task, data, max_length)
