"""From a PyTorch decoder to an ONNX graph with past key values (KV cache).

The graph reads new tokens behind the keys and values of those before them and gives both back, so that one graph does
prefill (an empty past) and decode (one new token). Names are those of Optimum and Transformers.js:

    input_ids, position_ids          (batch, length) int64
    attention_mask                   (batch, past + length) int64, 0 at padding, which is on the left
    past_key_values.{i}.key|value    (batch, key heads, past, head width) float32
    logits                           (batch, length, words) float32
    present.{i}.key|value            (batch, key heads, past + length, head width) float32
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import DynamicCache, PreTrainedModel

from stages.graph.trace import OPSETS, export_graph
from stages.models.anatomy import ModelParts

Pairs = list[tuple[Tensor, Tensor]]
"""Keys and values, layer by layer."""


def trace_decoder(model: PreTrainedModel, path: Path, *, opset: int = OPSETS["fp32"]) -> None:
    """One ONNX file of a causal language model, dense or low-rank; batch, length and past are free.

    Raises:
        BadInput: the exporter cannot take this architecture, or its family has no row in `FAMILIES`.
    """
    parts = ModelParts(model)
    head_width = parts.count_outputs("q") // parts.heads
    batch, length, past, total = 2, 5, 3, 8
    cached = (batch, parts.count_outputs("k") // head_width, past, head_width)
    ids = torch.ones(batch, length, dtype=torch.int64)
    axes = {name: Dim(name) for name in ("batch", "length", "past", "total")}
    new, seen = {0: axes["batch"], 1: axes["length"]}, {0: axes["batch"], 2: axes["past"]}
    names = [f"{i}.{part}" for i in range(parts.depth) for part in ("key", "value")]
    export_graph(
        model,
        _wrap_cache(model),
        path,
        example=(
            ids,
            torch.ones(batch, total, dtype=torch.int64),
            ids.cumsum(1) + past - 1,
            [(torch.zeros(cached), torch.zeros(cached)) for _ in range(parts.depth)],
        ),
        free=(new, {0: axes["batch"], 1: axes["total"]}, new, [(seen, seen)] * parts.depth),
        inputs=["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in names)],
        outputs=["logits", *(f"present.{name}" for name in names)],
        opset=opset,
    )


def _wrap_cache(model: PreTrainedModel) -> nn.Module:
    """The model with its cache as plain tensors in and out."""

    class WithCache(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor, mask: Tensor, positions: Tensor, past: Pairs) -> tuple[Tensor, list[Tensor]]:
            # the config's own cache would drop what lies before a sliding window; the mask hides that, too
            cache = DynamicCache(past)
            logits = self.model(
                ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).logits
            return logits, [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]

    return WithCache()
