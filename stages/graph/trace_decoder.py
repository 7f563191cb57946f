"""From a PyTorch decoder to an ONNX graph that remembers.

The graph reads new tokens behind the keys and values of those before them and gives both back, so that one graph does
prefill (an empty past) and decode (one new token). Names are those of Optimum and Transformers.js:

    input_ids, position_ids          (batch, length) int64
    attention_mask                   (batch, past + length) int64, 0 at padding, which is on the left
    past_key_values.{i}.key|value    (batch, key heads, past, head width) float32
    logits                           (batch, length, words) float32
    present.{i}.key|value            (batch, key heads, past + length, head width) float32
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.graph.trace import OPSETS, write
from stages.models.anatomy import Parts

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Pairs = list[tuple["Tensor", "Tensor"]]
"""Keys and values, layer by layer."""


def trace_decoder(model: "PreTrainedModel", path: Path, *, opset: int = OPSETS["fp32"]) -> None:
    """One ONNX file of a causal language model, dense or low-rank; batch, length and past are free.

    Raises:
        BadInput: the exporter cannot take this architecture, or its family has no row in `FAMILIES`.
    """
    import torch
    from torch.export import Dim

    shape = Parts(model).shape
    batch, length, past, total = 2, 5, 3, 8
    cached = (batch, shape.key_heads, past, shape.widths["k"] // shape.key_heads)
    ids = torch.ones(batch, length, dtype=torch.int64)
    axes = {name: Dim(name) for name in ("batch", "length", "past", "total")}
    new, seen = {0: axes["batch"], 1: axes["length"]}, {0: axes["batch"], 2: axes["past"]}
    names = [f"{i}.{part}" for i in range(shape.depth) for part in ("key", "value")]
    write(
        model,
        _remembering(model),
        path,
        example=(
            ids,
            torch.ones(batch, total, dtype=torch.int64),
            ids.cumsum(1) + past - 1,
            [(torch.zeros(cached), torch.zeros(cached)) for _ in range(shape.depth)],
        ),
        free=(new, {0: axes["batch"], 1: axes["total"]}, new, [(seen, seen)] * shape.depth),
        inputs=["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in names)],
        outputs=["logits", *(f"present.{name}" for name in names)],
        opset=opset,
    )


def _remembering(model: "PreTrainedModel") -> "nn.Module":
    """The model with its cache as plain tensors in and out."""
    from torch import nn
    from transformers import DynamicCache

    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, ids: "Tensor", mask: "Tensor", positions: "Tensor", past: Pairs
        ) -> "tuple[Tensor, list[Tensor]]":
            # a cache of the config's own would forget what lies before a sliding window; the mask hides that, too
            cache = DynamicCache(past)
            logits = self.model(
                ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).logits
            return logits, [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]

    return Remembering()
