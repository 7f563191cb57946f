"""Is the graph the model? Logits against PyTorch, tokens against the split, score against the evaluation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stages.settings import BadInput

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy import ndarray
    from onnxruntime import InferenceSession
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from serving.predictor import Predictor

Batch = dict[str, "ndarray"]


def shapes(split: "Dataset", tokenizer: "PreTrainedTokenizerBase", inputs: Sequence[str]) -> Iterator[Batch]:
    """Real text in different (batch, length): the shortest and the longest alone, and padded mixtures."""
    order = sorted(range(len(split)), key=split["length"].__getitem__)
    spread = [order[i * (len(order) - 1) // 7] for i in range(8)]
    for rows in ([order[0]], [order[-1]], [order[-1], order[0], order[len(order) // 2]], spread):
        columns = {name: split.select_columns(list(inputs))[rows][name] for name in inputs}
        padded = tokenizer.pad(columns, return_tensors="np")
        yield {name: padded[name].astype("int64") for name in inputs}


def singles(split: "Dataset", inputs: Sequence[str]) -> Iterator[Batch]:
    """Each row alone, (1, length), so that nothing is padding."""
    import numpy as np

    for row in split.select_columns(list(inputs)):
        yield {name: np.asarray([row[name]], dtype=np.int64) for name in inputs}


def difference(model: "PreTrainedModel", graph: Path, batches: Sequence[Batch]) -> float:
    """Largest |logit of the graph - logit of PyTorch| over the batches, on the CPU.

    Raises:
        BadInput: ONNX Runtime cannot run the graph.
    """
    import numpy as np
    import torch

    with runnable(graph) as session:
        found = [session.run(["logits"], batch)[0] for batch in batches]
    largest = 0.0
    with torch.inference_mode():
        for batch, logits in zip(batches, found, strict=True):
            tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
            largest = max(largest, float(np.abs(logits - model(**tensors).logits.numpy()).max()))
    return largest


@contextmanager
def runnable(graph: Path) -> "Iterator[InferenceSession]":
    """A session on the CPU, to be loaded and run inside.

    Raises:
        BadInput: ONNX Runtime cannot.
    """
    import onnxruntime

    try:
        yield onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no other base class
        raise BadInput(
            f"ONNX Runtime cannot run {graph.name} of this architecture: {str(error).splitlines()[0]}; "
            "choose another base.model"
        ) from error


def texts(split: "Dataset") -> list[str] | list[tuple[str, str]]:
    """The raw text that a user of the folder would send: sentences or pairs."""
    if "text_pair" in split.column_names:
        return list(zip(split["text"], split["text_pair"], strict=True))
    return list(split["text"])


def same_tokens(predictor: "Predictor", split: "Dataset") -> None:
    """The folder's tokenizer makes of raw text what the model was trained and scored on.

    Raises:
        BadInput: the first text whose tokens differ.
    """
    for text, made, frozen in zip(texts(split), predictor.encode(texts(split)), split["input_ids"], strict=True):
        if made.ids != frozen:
            raise BadInput(f"the exported tokenizer reads {text!r:.80} differently from prepare; run prepare again")


def same_score(metric: str, found: float, evaluated: float, slack: float) -> None:
    """The graph's score is the evaluation's.

    Args:
        slack: points that rounding may change.

    Raises:
        BadInput: it is not.
    """
    if abs(found - evaluated) > slack:
        raise BadInput(
            f"the fp32 graph scores {metric} {found:.2f}, but evaluate found {evaluated:.2f}; "
            "run evaluate again, and then export"
        )
