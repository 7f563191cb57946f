"""What a model computed on the way: taken by forward hooks while it runs, only what is asked for.

Attention maps are rebuilt from the captured queries and keys, so that the models keep their fused attention; the
plain attention that returns maps costs more than the whole comparison.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.models.anatomy import Parts

Aspect = tuple[
    Literal[
        "hidden", "attention", "q", "k", "v", "up", "down", "input.q", "input.k", "input.v", "input.up", "input.down"
    ],
    int,
]
"""A name and a layer number, from 1. `hidden`: the layer's output; `q` … `down`: a matrix's output; `input.q`: its
input; `attention`: its attention map, where scores are not plainly QKᵀ/√d."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the objectives know of a batch."""

    mask: Tensor
    """1 for real tokens, 0 for padding; (batch, tokens), float32."""
    labels: Tensor
    """(batch,)"""
    layers: Collection[int] | None = None
    """The layers whose turn it is; None means all."""

    def takes(self, layer: int) -> bool:
        return self.layers is None or layer in self.layers

    @property
    def tokens(self) -> Tensor:
        """Real tokens of each example, (batch,)."""
        return self.mask.sum(1)


class Captured:
    """One model's output on one batch, by aspect: `captured["hidden", 3]`."""

    def __init__(self, parts: Parts, logits: Tensor, values: dict[Aspect, Tensor]) -> None:
        self.parts, self.logits, self.values = parts, logits, values

    def __getitem__(self, aspect: Aspect) -> Tensor:
        return self.values[aspect]

    @property
    def depth(self) -> int:
        return self.parts.depth

    def scores(self, layer: int, batch: Batch) -> Tensor:
        """Attention scores before the softmax, padded keys at the lowest value; (batch, heads, tokens, tokens)."""
        if (maps := self.values.get(("attention", layer))) is not None:
            return maps.clamp_min(torch.finfo(maps.dtype).tiny).log()  # their softmax gives the maps back
        heads = self.parts.heads
        q, k = (self[n, layer].unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1) for n in ("q", "k"))
        padding = (1 - batch.mask).mul(torch.finfo(q.dtype).min / 2).to(q.dtype).repeat_interleave(heads, 0)
        # one product that scales and adds as it goes: a map is the largest tensor here, each pass over it counts
        scores = torch.baddbmm(padding.unsqueeze(1), q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
        return scores.unflatten(0, (-1, heads))

    def replayed(self, name: str, layer: int, other: "Captured") -> Tensor:
        """What this model's matrix says of the other model's input to it; (batch, tokens, out)."""
        # a copy: what inference mode made cannot be kept for the backward pass
        return self.parts.matrix(name, layer)(other[f"input.{name}", layer].clone())


class Capture:
    """Hooks on a model for the aspects that may be asked for; each forward keeps only those that are.

    Use:
        capture = Capture(model, aspects)
        captured = capture(model_or_its_wrapper, inputs, wanted)
    """

    def __init__(self, model: nn.Module, aspects: Collection[Aspect]) -> None:
        self.parts = Parts(model)
        self.wanted: Collection[Aspect] = ()
        self.values: dict[Aspect, Tensor] = {}
        for aspect in aspects:
            self._hook(aspect)

    def __call__(self, model: nn.Module, inputs: dict[str, Any], wanted: Collection[Aspect]) -> Captured:
        """Runs the model on the inputs (no labels: no loss of its own is computed)."""
        self.wanted, self.values = wanted, {}
        maps = self.parts.anatomy.scores == "maps" and any(name == "attention" for name, _ in wanted)
        out = model(**inputs, **({"output_attentions": True} if maps else {}))
        if maps:
            self.values |= {("attention", i): m for i, m in enumerate(out.attentions, 1) if ("attention", i) in wanted}
        captured, self.values = Captured(self.parts, out.logits, self.values), {}
        return captured

    def _hook(self, aspect: Aspect) -> None:
        name, layer = aspect
        if name == "attention":
            return
        if name == "hidden":
            module = self.parts.layers[layer - 1]
        else:
            module = self.parts.matrix(name.removeprefix("input."), layer)

        def keep(_module: nn.Module, args: tuple, output: Any) -> None:
            # the first call counts: DeBERTa applies its q and k again, to relative positions
            if aspect in self.wanted and aspect not in self.values:
                value = args[0] if name.startswith("input.") else output
                self.values[aspect] = value[0] if isinstance(value, tuple) else value

        module.register_forward_hook(keep)
