"""What a model computed on the way: taken by forward hooks while it runs, only what is asked for.

Attention maps are rebuilt from the captured queries and keys, so that the models keep their fused attention; the
plain attention that returns maps costs more than the whole comparison.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stages.distillation.distances import scores
from stages.distillation.objectives.base import Objective, Side
from stages.models.anatomy import Parts, Shape

Aspect = tuple[str, int]
"""A name and a layer number, from 1. `hidden`: the layer's output (of layer 0: the embeddings); `q` … `down`: a
matrix's output; `input.q`: its input; `attention`: its attention map, where scores are not plainly QKᵀ/√d."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the objectives know of a batch."""

    mask: Tensor
    """1 for real tokens, 0 for padding; (batch, tokens), float32."""
    labels: Tensor
    """(batch,), or one for each row of the logits."""
    rows: Tensor | None = None
    """The example that each row of the logits belongs to, (rows,); None: each example has one."""
    layers: Collection[int] | None = None
    """The student's layers whose turn it is; None means all."""
    progress: float = 0.0
    """Share of the training that is done."""
    index: Tensor | None = None
    """Places of the examples in the training split, (batch,); for objectives that remember them."""

    def takes(self, layer: int) -> bool:
        return self.layers is None or layer == 0 or layer in self.layers

    def mean(self, values: Tensor) -> Tensor:
        """The mean over examples of a value for each row of the logits, (rows,): first over an example's own rows."""
        if self.rows is None:
            return values.mean()
        counts = values.new_zeros(len(self.mask)).index_add_(0, self.rows, torch.ones_like(values))
        return (values / counts[self.rows]).sum() / len(self.mask)

    @property
    def tokens(self) -> Tensor:
        """Real tokens of each example, (batch,)."""
        return self.mask.sum(1)


def wanted(
    terms: dict[str, Objective], pairs: dict[str, list[tuple[int, int]]], side: Side, batch: Batch | None = None
) -> set[Aspect]:
    """What must be captured of one model for these terms, at the layers that they compare in this batch."""
    return {
        (aspect, pair[side == "teacher"])
        for name, term in terms.items()
        for aspect in term.aspects(side)
        for pair in pairs[name]
        if batch is None or batch.takes(pair[0])
    }


class Captured:
    """One model's output on one batch, by aspect: `captured["hidden", 3]`."""

    def __init__(self, parts: Parts, logits: Tensor, values: dict[Aspect, Tensor]) -> None:
        self.parts, self.logits, self.values = parts, logits, values

    def __getitem__(self, aspect: Aspect) -> Tensor:
        return self.values[aspect]

    @property
    def shape(self) -> Shape:
        return self.parts.shape

    def scores(self, layer: int, batch: Batch | None = None) -> Tensor:
        """Attention scores, (batch, heads, tokens, tokens); given the batch, padded keys are at the lowest value."""
        mask = None if batch is None else batch.mask
        if (maps := self.values.get(("attention", layer))) is not None:
            return maps.clamp_min(torch.finfo(maps.dtype).tiny).log()  # their softmax gives the maps back
        return scores(self["q", layer], self["k", layer], self.shape.heads, mask)

    def replayed(self, name: str, pair: tuple[int, int], other: "Captured") -> Tensor:
        """What this model's matrix (layer `pair[0]`) says of the other's input (`pair[1]`); (batch, tokens, out)."""
        # a copy: what inference mode made cannot be kept for the backward pass
        return self.parts.matrix(name, pair[0])(other[f"input.{name}", pair[1]].clone())


class Capture:
    """Hooks on a model for the aspects that may be asked for; each forward keeps only those that are.

    Use:
        capture = Capture(model, aspects)
        captured = capture(model_or_its_wrapper, inputs, wanted)
        capture.close()
    """

    def __init__(self, model: nn.Module, aspects: Collection[Aspect]) -> None:
        self.parts = Parts(model)
        self.wanted: Collection[Aspect] = ()
        self.values: dict[Aspect, Tensor] = {}
        self.hooks = [self._hook(aspect) for aspect in aspects if aspect[0] != "attention"]

    def close(self) -> None:
        """Takes the hooks off again."""
        for hook in self.hooks:
            hook.remove()

    def __call__(self, model: nn.Module, inputs: dict[str, Any], wanted: Collection[Aspect]) -> Captured:
        """Runs the model on the inputs (no labels: no loss of its own is computed)."""
        self.wanted, self.values = wanted, {}
        maps = self.parts.anatomy.scores == "maps" and any(name == "attention" for name, _ in wanted)
        out = model(**inputs, **({"output_attentions": True} if maps else {}))
        if maps:
            self.values |= {("attention", i): m for i, m in enumerate(out.attentions, 1) if ("attention", i) in wanted}
        captured, self.values = Captured(self.parts, out.logits, self.values), {}
        return captured

    def _hook(self, aspect: Aspect) -> Any:
        name, layer = aspect
        if aspect == ("hidden", 0):
            return self.parts.layers[0].register_forward_pre_hook(self._keep_input, with_kwargs=True)
        if name == "hidden":
            module = self.parts.layers[layer - 1]
        else:
            module = self.parts.matrix(name.removeprefix("input."), layer)

        def keep(_module: nn.Module, args: tuple, output: Any) -> None:
            # the first call counts: DeBERTa applies its q and k again, to relative positions
            if aspect in self.wanted and aspect not in self.values:
                value = args[0] if name.startswith("input.") else output
                self.values[aspect] = value[0] if isinstance(value, tuple) else value

        return module.register_forward_hook(keep)

    def _keep_input(self, _module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if ("hidden", 0) in self.wanted:
            self.values["hidden", 0] = args[0] if args else kwargs["hidden_states"]
