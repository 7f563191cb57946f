"""From a PyTorch model to an ONNX graph.

One export path for dense and low-rank models alike: fused (SDPA) attention through
`torch.onnx.export(dynamo=True)`. At opset 23 attention stays one standard `Attention` node and the activation
one `Gelu` node, whether the projections around them are one matrix or two factors, so teacher and student run
on the same kernels. At opset 18 both are spelled out in small operators that older runtimes know.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from stages.errors import BadInput
from stages.models.anatomy import unwrap_low_rank

OPSETS = {"fp32": 23, "portable": 18}


def trace_classifier(model: PreTrainedModel, inputs: Sequence[str], path: Path, *, opset: int = OPSETS["fp32"]) -> None:
    """One ONNX file: `inputs`, each (batch, length) int64, in; `logits` (batch, outputs) float32 out.

    Batch and length are free; length is at least 2 (first and last special token).

    Raises:
        BadInput: the exporter cannot take this architecture.
    """
    example = {name: torch.ones(2, 7, dtype=torch.int64) for name in inputs}
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=get_max_positions(model))}
    export_graph(
        model,
        _wrap_logits(model, inputs),
        path,
        example=tuple(example.values()),
        free=((free,) * len(inputs),),
        inputs=list(inputs),
        outputs=["logits"],
        opset=opset,
    )


def export_graph(
    model: PreTrainedModel,
    wrapped: nn.Module,
    path: Path,
    *,
    example: tuple,
    free: Any,
    inputs: list[str],
    outputs: list[str],
    opset: int,
) -> None:
    """Traces a model, as `wrapped` calls it, into one file without local paths.

    Args:
        example: what `wrapped` is called with.
        free: the free dimensions of the example, as `torch.onnx.export` takes them.

    Raises:
        BadInput: the exporter cannot take this architecture.
    """
    try:
        with silence_converters():
            model.set_attn_implementation("sdpa")
            torch.onnx.export(
                wrapped.eval(),
                example,
                path,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=free,
                opset_version=opset,
                dynamo=True,
                external_data=False,
                optimize=True,
                verbose=False,
            )
        _strip_metadata(path)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(
            f"the ONNX exporter cannot take {unwrap_low_rank(model).config.model_type} at opset {opset}: {reason}; "
            "choose another base.model"
        ) from error


def _strip_metadata(path: Path) -> None:
    """Takes out where each node came from: stack traces name local folders and differ from run to run."""
    model = onnx.load(path)
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.graph.metadata_props[:]
    onnx.save(model, path)


@contextmanager
def silence_converters() -> Iterator[None]:
    """Without the converters' log messages and warnings; their errors still come through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def get_max_positions(model: PreTrainedModel) -> int:
    """The most tokens that the model reads; RoBERTa's positions start behind the padding id."""
    config: PretrainedConfig = unwrap_low_rank(model).config
    positions = getattr(config, "max_position_embeddings", 512)
    return positions - (config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0)


def _wrap_logits(model: PreTrainedModel, names: Sequence[str]) -> nn.Module:
    """The model with named inputs in a fixed order in and nothing but logits out."""

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Tensor) -> Tensor:
            return self.model(**dict(zip(names, tensors, strict=True))).logits

    return Logits()
