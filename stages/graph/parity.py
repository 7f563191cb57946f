"""Parity: is the graph the model? Logits against PyTorch, tokens against the split, score against the evaluation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from datasets import Dataset
from onnxruntime import InferenceSession
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from serving.exported import Feed
from serving.predictor import Predictor, Text
from stages.errors import BadInput


def sample_batches(split: Dataset, tokenizer: PreTrainedTokenizerBase, inputs: Sequence[str]) -> Iterator[Feed]:
    """Real text in different (batch, length): the shortest and the longest alone, and padded mixtures."""
    order = sorted(range(len(split)), key=split["length"].__getitem__)
    spread = [order[i * (len(order) - 1) // 7] for i in range(8)]
    for rows in ([order[0]], [order[-1]], [order[-1], order[0], order[len(order) // 2]], spread):
        columns = {name: split.select_columns(list(inputs))[rows][name] for name in inputs}
        padded = tokenizer.pad(columns, return_tensors="np")
        yield {name: padded[name].astype("int64") for name in inputs}


def single_rows(split: Dataset, inputs: Sequence[str]) -> Iterator[Feed]:
    """Each row alone, (1, length), so that nothing is padding."""
    for row in split.select_columns(list(inputs)):
        yield {name: np.asarray([row[name]], dtype=np.int64) for name in inputs}


def largest_difference(model: PreTrainedModel, graph: Path, batches: Sequence[Feed]) -> float:
    """Largest |logit of the graph - logit of PyTorch| over the batches, on the CPU.

    Raises:
        BadInput: ONNX Runtime cannot run the graph.
    """
    with open_session(graph) as session:
        outputs = [session.run(["logits"], batch)[0] for batch in batches]
    largest = 0.0
    with torch.inference_mode():
        for batch, logits in zip(batches, outputs, strict=True):
            tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
            largest = max(largest, float(np.abs(logits - model(**tensors).logits.numpy()).max()))
    return largest


@contextmanager
def open_session(graph: Path) -> Iterator[InferenceSession]:
    """A session on the CPU, to be opened and run inside.

    Raises:
        BadInput: ONNX Runtime cannot.
    """
    try:
        yield onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no other base class
        raise BadInput(
            f"ONNX Runtime cannot run {graph.name} of this architecture: {str(error).splitlines()[0]}; "
            "choose another base.model"
        ) from error


def list_texts(split: Dataset) -> list[Text]:
    """The raw texts that a user of the folder would send: sentences or pairs."""
    if "text_pair" in split.column_names:
        return list(zip(split["text"], split["text_pair"], strict=True))
    return list(split["text"])


def require_same_tokens(predictor: Predictor, split: Dataset) -> None:
    """Checks that the folder's tokenizer makes the tokens of raw text that the model was trained and scored on.

    Raises:
        BadInput: the first text whose tokens differ.
    """
    texts = list_texts(split)
    for text, encoded, frozen in zip(texts, predictor.encode(texts), split["input_ids"], strict=True):
        if encoded.ids != frozen:
            raise BadInput(f"the exported tokenizer reads {text!r:.80} differently from prepare; run prepare again")


def require_same_score(metric: str, score: float, evaluated: float, slack: float) -> None:
    """Checks that the graph's score is the evaluation's.

    Args:
        slack: points that rounding may change.

    Raises:
        BadInput: it is not.
    """
    if abs(score - evaluated) > slack:
        raise BadInput(
            f"the fp32 graph scores {metric} {score:.2f}, but evaluate measured {evaluated:.2f}; "
            "run evaluate again, and then export"
        )
