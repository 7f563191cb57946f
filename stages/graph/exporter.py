"""What is exported: a model of one kind of task, as the folder (onnx_folder.py) sees it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy import ndarray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from serving.exported import Feed


@dataclass(frozen=True, kw_only=True)
class CardText:
    """The parts of a model card that depend on the kind of task."""

    pipeline_tag: str
    """The hub's name for what the model does."""
    task: str
    """Input and output in a few words."""
    scored_on: str
    """What the scores of the variants were measured on."""
    usage: str
    """Python code that runs in the folder, with numpy, onnxruntime and tokenizers."""


class Exporter(Protocol):
    """How a model of one kind is traced, fed, compared with PyTorch and scored."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: dict[str, Any]
    """The manifest's entries of this kind of model."""
    metric: str
    """The metric that reduced variants have to keep, in points."""

    def write_files(self, folder: Path) -> None:
        """The files of this kind beside config and tokenizer."""

    def export_graph(self, path: Path, opset: int) -> None:
        """Traces the model and writes the graph."""

    def make_feeds(self, graph: Path, count: int, seed: int) -> list[Feed]:
        """Inputs of the graph from that many training examples, without padding."""

    def compare_with_torch(self, graph: Path) -> dict[str, float]:
        """`difference`: largest |logit of the graph - logit of PyTorch|; and further figures of parity."""

    def score(self, folder: Path, variant: str) -> tuple[dict[str, float], ndarray | None]:
        """Metrics (points) on the validation split through the finished folder, and each prediction's class."""

    def require_score(self, score: float, evaluated: float) -> None:
        """Raises BadInput where the graph's score is not the evaluation's."""

    def describe(self, facts: dict[str, Any]) -> CardText:
        """The model card's text."""
