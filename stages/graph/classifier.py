"""A classifier (or a regression) as an ONNX graph: padded texts in, a row of logits each out."""

from pathlib import Path
from typing import Any

import torch
from numpy import ndarray
from transformers import AutoTokenizer, PreTrainedModel

from serving.exported import Feed
from serving.predictor import Predictor
from stages.graph import parity
from stages.graph.exporter import CardText
from stages.graph.trace import trace_classifier
from stages.schema.task import ClassificationTask, RegressionTask
from stages.tasks.predictions import Predictions
from stages.tasks.scorers import Scorer
from stages.tasks.splits import read_split


class ClassifierExporter:
    """An `Exporter` whose scores are taken from raw text.

    Args:
        data: written by prepare.
        max_length: where texts are truncated, in tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        task: ClassificationTask | RegressionTask,
        scorer: Scorer,
        data: Path,
        max_length: int,
    ) -> None:
        self.model, self.task, self.scorer, self.metric = model, task, scorer, task.metrics[0]
        self.train, self.validation = read_split(data, "train"), read_split(data, "validation")
        self.tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer", model_max_length=max_length)
        columns = ("input_ids", "attention_mask", "token_type_ids")
        self.inputs = [name for name in columns if name in self.validation.column_names]
        self.samples = list(parity.sample_batches(self.validation, self.tokenizer, self.inputs))
        self.facts: dict[str, Any] = {"inputs": self.inputs, "max_length": max_length, "pair": len(task.text) == 2}

    def write_files(self, folder: Path) -> None:
        """The tokenizer again, so that it pads and truncates on its own."""
        backend = self.tokenizer.backend_tokenizer
        backend.enable_truncation(self.facts["max_length"])
        backend.enable_padding(
            pad_id=self.tokenizer.pad_token_id,
            pad_type_id=self.tokenizer.pad_token_type_id,
            pad_token=self.tokenizer.pad_token,
        )
        backend.save(str(folder / "tokenizer.json"))

    def export_graph(self, path: Path, opset: int) -> None:
        trace_classifier(self.model, self.inputs, path, opset=opset)

    def make_feeds(self, graph: Path, count: int, seed: int) -> list[Feed]:
        drawn = self.train.shuffle(seed=seed, keep_in_memory=True).select(range(min(count, len(self.train))))
        return list(parity.single_rows(drawn, self.inputs))

    def compare_with_torch(self, graph: Path) -> dict[str, float]:
        return {"difference": parity.largest_difference(self.model, graph, self.samples)}

    def score(self, folder: Path, variant: str) -> tuple[dict[str, float], ndarray | None]:
        """Metrics from raw text; the predicted classes, of a regression None."""
        predictor = Predictor(folder, variant, threads=torch.get_num_threads())
        if variant == "fp32":
            parity.require_same_tokens(predictor, self.validation)
        logits = predictor.compute_logits(parity.list_texts(self.validation))
        predictions = Predictions(values=logits, targets=self.validation["labels"][:])
        return self.scorer.compute_scores(predictions), self.predict_classes(logits)

    def predict_classes(self, logits: ndarray) -> ndarray | None:
        """(examples,)"""
        return logits.argmax(-1)

    def require_score(self, score: float, evaluated: float) -> None:
        """Equal up to an example or two whose classes tie within rounding.

        Raises:
            BadInput: it is not.
        """
        parity.require_same_score(self.metric, score, evaluated, slack=250 / len(self.validation))

    def describe(self, facts: dict[str, Any]) -> CardText:
        return CardText(
            pipeline_tag="text-classification",
            task=f"{'two texts' if facts['pair'] else 'a text'} in, {self.describe_output()} out",
            scored_on="ONNX Runtime on raw text",
            usage=_usage(facts, self.name_output()),
        )

    def describe_output(self) -> str:
        return f"one of {self.name_output()}"

    def name_output(self) -> str:
        return ", ".join(getattr(self.task, "labels", []))


class RegressionExporter(ClassifierExporter):
    """The same with a value in place of classes."""

    def predict_classes(self, logits: ndarray) -> None:
        return None

    def require_score(self, score: float, evaluated: float) -> None:
        """Equal up to rounding.

        Raises:
            BadInput: it is not.
        """
        parity.require_same_score(self.metric, score, evaluated, slack=0.01)

    def describe_output(self) -> str:
        return "a value"

    def name_output(self) -> str:
        return "the value"


def _usage(facts: dict[str, Any], output: str) -> str:
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    feed = ", ".join(f'"{name}": np.array([e.{fields[name]} for e in encoded])' for name in facts["inputs"])
    text = '[("a text", "another text")]' if facts["pair"] else '["a text", "another text"]'
    return f"""import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

encoded = Tokenizer.from_file("tokenizer.json").encode_batch({text})
inputs = {{{feed}}}
logits = InferenceSession("onnx/model.onnx").run(["logits"], inputs)[0]
print(logits)  # {output}"""
