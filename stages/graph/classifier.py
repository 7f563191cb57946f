"""A classifier (or a regression) on its way to ONNX: padded texts in, a row of logits each out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.graph import check, trace

if TYPE_CHECKING:
    from numpy import ndarray
    from transformers import PreTrainedModel

    from stages.graph.quantize import Batch
    from stages.tasks import Task


class Classifier:
    """A `Subject` (subject.py) that is scored from raw text.

    Args:
        data: what prepare froze.
        max_length: where texts are truncated, in tokens.
    """

    def __init__(self, model: "PreTrainedModel", task: "Task", data: Path, max_length: int) -> None:
        from transformers import AutoTokenizer

        from stages.tasks.splits import read_split

        self.model, self.task, self.metric = model, task, task.metrics[0]
        self.train, self.validation = read_split(data, "train"), read_split(data, "validation")
        self.tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer", model_max_length=max_length)
        columns = ("input_ids", "attention_mask", "token_type_ids")
        self.inputs = [name for name in columns if name in self.validation.column_names]
        self.samples = list(check.shapes(self.validation, self.tokenizer, self.inputs))
        self.facts: dict[str, Any] = {"inputs": self.inputs, "max_length": max_length, "pair": len(task.text) == 2}

    def write_beside(self, folder: Path) -> None:
        """Has the folder's tokenizer pad and truncate on its own."""
        words = self.tokenizer.backend_tokenizer
        words.enable_truncation(self.facts["max_length"])
        words.enable_padding(
            pad_id=self.tokenizer.pad_token_id,
            pad_type_id=self.tokenizer.pad_token_type_id,
            pad_token=self.tokenizer.pad_token,
        )
        words.save(str(folder / "tokenizer.json"))

    def trace(self, path: Path, opset: int) -> None:
        trace.trace(self.model, self.inputs, path, opset=opset)

    def feeds(self, graph: Path, count: int, seed: int) -> "list[Batch]":
        drawn = self.train.shuffle(seed=seed, keep_in_memory=True).select(range(min(count, len(self.train))))
        return list(check.singles(drawn, self.inputs))

    def compare(self, graph: Path) -> dict[str, float]:
        return {"difference": check.difference(self.model, graph, self.samples)}

    def score(self, folder: Path, variant: str) -> "tuple[dict[str, float], ndarray | None]":
        """Metrics from raw text; the classes that were predicted, of a regression None."""
        import torch

        from serving.predictor import Predictor
        from stages.tasks.metrics import scores

        predictor = Predictor(folder, variant, threads=torch.get_num_threads())
        if variant == "fp32":
            check.same_tokens(predictor, self.validation)
        logits = predictor.logits(check.texts(self.validation))
        said = logits.argmax(-1) if self.task.kind == "classification" else None
        return scores(self.task, logits, self.validation["labels"]), said

    def check_score(self, found: float, evaluated: float) -> None:
        """Equal up to an example or two whose classes tie within rounding.

        Raises:
            BadInput: it is not.
        """
        slack = 0.01 if self.task.kind == "regression" else 250 / len(self.validation)
        check.same_score(self.metric, found, evaluated, slack)
