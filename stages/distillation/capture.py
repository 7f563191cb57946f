"""What a model computed on the way: taken by forward hooks while it runs, only what is asked for.

Attention maps are rebuilt from the captured queries and keys, so that the models keep their fused attention; the
plain attention that returns maps costs more than the whole comparison. A decoder's queries and keys are captured as
its matrices give them; norms, the turn by their positions and the sharing of keys are done again.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from stages.distillation.distances import heads, scores, visible
from stages.distillation.objectives.base import Objective, Side
from stages.models.anatomy import Parts, Shape

Aspect = tuple[str, int]
"""A name and a layer number, from 1. `hidden`: the layer's output (of layer 0: the embeddings); `q` … `down`: a
matrix's output; `input.q`: its input; `attention`: what its attention scores need beside `q` and `k`: the map itself
where they are not plainly QKᵀ/√d, the angles of the tokens' positions (kept as of layer 0) where those turn q and k."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the objectives know of a batch."""

    mask: Tensor
    """1 for real tokens, 0 for padding; (batch, tokens), float32."""
    labels: Tensor
    """(batch,), or one for each row of the logits."""
    asked: Tensor | None = None
    """Positions at which a causal model is asked for the next token, (batch, tokens), bool; None: no such model."""
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
    def counted(self) -> Tensor:
        """1 for the positions whose inner states are compared, (batch, tokens): those asked, or else all real ones."""
        return self.mask if self.asked is None else self.asked.to(self.mask.dtype)


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
        """Attention scores, (batch, heads, tokens, tokens); given the batch, what is not seen has the lowest value."""
        if (maps := self.values.get(("attention", layer))) is not None:
            return maps.clamp_min(torch.finfo(maps.dtype).tiny).log()  # their softmax gives the maps back
        seen = None if batch is None else self.seen(layer, batch)
        q, k = heads(self["q", layer], self.shape.heads), heads(self["k", layer], self.shape.key_heads)
        if not self.shape.causal:
            return scores(q, k, seen)
        attention = self.parts.attention(layer)
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        if (angles := self.values.get(("attention", 0))) is not None:
            q, k = apply_rotary_pos_emb(q, k, *angles)
        k = k.repeat_interleave(self.shape.heads // self.shape.key_heads, dim=1)
        return scores(q, k, seen, attention.scaling)

    def seen(self, layer: int, batch: Batch) -> Tensor:
        """1 where a query of the layer may look at a key; (batch, 1 or tokens, tokens)."""
        return visible(batch.mask, self.shape, layer)

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
        self.options = {"use_cache": False} if model.can_generate() else {}  # nothing is generated here
        self.wanted: Collection[Aspect] = ()
        self.values: dict[Aspect, Tensor] = {}
        self.hooks = [self._hook(aspect) for aspect in aspects if self._is_there(aspect[0])]
        if self.parts.rotary is not None:
            self.hooks.append(self.parts.rotary.register_forward_hook(self._keep_angles))

    def close(self) -> None:
        """Takes the hooks off again."""
        for hook in self.hooks:
            hook.remove()

    def __call__(self, model: nn.Module, inputs: dict[str, Any], wanted: Collection[Aspect]) -> Captured:
        """Runs the model on the inputs (no labels: no loss of its own is computed)."""
        self.wanted, self.values = wanted, {}
        maps = self.parts.anatomy.scores == "maps" and self._attention_wanted()
        out = model(**inputs, **self.options, **({"output_attentions": True} if maps else {}))
        if maps:
            self.values |= {("attention", i): m for i, m in enumerate(out.attentions, 1) if ("attention", i) in wanted}
        captured = Captured(self.parts, out.logits, self.values)
        self.wanted, self.values = (), {}  # what else the model runs for is not kept
        return captured

    def _is_there(self, name: str) -> bool:
        """Whether a module's output or input is that: not every family has a `gate`; `attention` is made of more."""
        return name == "hidden" or name.removeprefix("input.") in self.parts.anatomy.matrices

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

    def _attention_wanted(self) -> bool:
        return any(name == "attention" for name, _ in self.wanted)

    def _keep_angles(self, _module: nn.Module, args: tuple, output: tuple[Tensor, Tensor]) -> None:
        if self._attention_wanted():
            self.values["attention", 0] = torch.stack(output)

    def _keep_input(self, _module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if ("hidden", 0) in self.wanted:
            self.values["hidden", 0] = args[0] if args else kwargs["hidden_states"]
