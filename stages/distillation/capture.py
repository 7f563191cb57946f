"""Captures what a model computes on the way: by forward hooks while it runs, only the aspects that are compared.

Attention maps are rebuilt from the captured queries and keys, so that the models keep their fused attention; the
eager attention that returns maps costs more than the whole comparison. A decoder's queries and keys are captured as
its matrices compute them; norms, rotary positions and the sharing of keys are applied again.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from stages.models.anatomy import ModelParts
from stages.objectives.distances import attention_scores, split_heads, visible_keys
from stages.objectives.inputs import Aspect, Batch, Captured, Shape


def measure_shape(parts: ModelParts) -> Shape:
    """What the objectives need to know of a model to say whether it can be compared with another."""
    widths = {name: parts.count_outputs(name) for name in parts.anatomy.matrices if name != "out"}
    return Shape(
        depth=parts.depth,
        heads=parts.heads,
        widths=widths | {"hidden": widths["down"]},
        scores=parts.anatomy.scores,
        causal=parts.anatomy.causal,
        windows={i: size for i in range(1, parts.depth + 1) if (size := parts.get_window_size(i))},
    )


class CapturedOutputs:
    """One model's output on one batch, by aspect: `captured["hidden", 3]`; the objectives' protocol `Captured`."""

    def __init__(self, parts: ModelParts, shape: Shape, logits: Tensor, values: dict[Aspect, Tensor]) -> None:
        self.parts, self.shape, self.logits, self.values = parts, shape, logits, values

    def __getitem__(self, aspect: Aspect) -> Tensor:
        return self.values[aspect]

    def attention_scores(self, layer: int, batch: Batch | None = None) -> Tensor:
        """Attention scores, (batch, heads, tokens, tokens); given the batch, masked pairs have the lowest value."""
        if (maps := self.values.get(("attention", layer))) is not None:
            return maps.clamp_min(torch.finfo(maps.dtype).tiny).log()  # their softmax gives the maps back
        visible = None if batch is None else self.visible_keys(layer, batch)
        q = split_heads(self["q", layer], self.shape.heads)
        k = split_heads(self["k", layer], self.shape.key_heads)
        attention = self.parts.get_attention(layer)
        if attention is None:
            return attention_scores(q, k, visible)
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        if (angles := self.values.get(("attention", 0))) is not None:
            q, k = apply_rotary_pos_emb(q, k, *angles)
        k = k.repeat_interleave(self.shape.heads // self.shape.key_heads, dim=1)
        return attention_scores(q, k, visible, attention.scaling)

    def visible_keys(self, layer: int, batch: Batch) -> Tensor:
        """1 where a query of the layer may attend to a key; (batch, 1 or tokens, tokens)."""
        return visible_keys(batch.mask, self.shape, layer)

    def replay(self, name: str, pair: tuple[int, int], other: Captured) -> Tensor:
        """This model's matrix (layer `pair[0]`) times the other's input (`pair[1]`); (batch, tokens, out)."""
        # a copy: what inference mode made cannot be saved for the backward pass
        return self.parts.get_matrix(name, pair[0])(other[f"input.{name}", pair[1]].clone())


class Capture:
    """Hooks on a model for the aspects that may be wanted; each forward pass keeps only those that are.

    Use:
        capture = Capture(model, aspects)
        captured = capture(model_or_its_wrapper, inputs, wanted)
        capture.close()
    """

    def __init__(self, model: nn.Module, aspects: Collection[Aspect]) -> None:
        self.parts = ModelParts(model)
        self.shape = measure_shape(self.parts)
        self.options = {"use_cache": False} if model.can_generate() else {}  # nothing is generated here
        self.wanted: Collection[Aspect] = ()
        self.values: dict[Aspect, Tensor] = {}
        self.hooks = [self._add_hook(aspect) for aspect in aspects if self._is_module(aspect[0])]
        if self.parts.rotary is not None:
            self.hooks.append(self.parts.rotary.register_forward_hook(self._keep_angles))

    def close(self) -> None:
        """Removes the hooks."""
        for hook in self.hooks:
            hook.remove()

    def __call__(self, model: nn.Module, inputs: dict[str, Any], wanted: Collection[Aspect]) -> CapturedOutputs:
        """Runs the model on the inputs (no labels: no loss of its own is computed)."""
        self.wanted, self.values = wanted, {}
        maps = self.parts.anatomy.scores == "maps" and self._wants_attention()
        out = model(**inputs, **self.options, **({"output_attentions": True} if maps else {}))
        if maps:
            self.values |= {("attention", i): m for i, m in enumerate(out.attentions, 1) if ("attention", i) in wanted}
        captured = CapturedOutputs(self.parts, self.shape, out.logits, self.values)
        self.wanted, self.values = (), {}  # nothing is kept of other forward passes
        return captured

    def _is_module(self, name: str) -> bool:
        """Whether the aspect is a module's output or input: not every family has a `gate`, and `attention` is none."""
        return name == "hidden" or name.removeprefix("input.") in self.parts.anatomy.matrices

    def _add_hook(self, aspect: Aspect) -> Any:
        name, layer = aspect
        if aspect == ("hidden", 0):
            return self.parts.layers[0].register_forward_pre_hook(self._keep_embeddings, with_kwargs=True)
        if name == "hidden":
            module = self.parts.layers[layer - 1]
        else:
            module = self.parts.get_matrix(name.removeprefix("input."), layer)

        def keep(_module: nn.Module, args: tuple, output: Any) -> None:
            # the first call counts: DeBERTa applies its q and k again, to relative positions
            if aspect in self.wanted and aspect not in self.values:
                value = args[0] if name.startswith("input.") else output
                self.values[aspect] = value[0] if isinstance(value, tuple) else value

        return module.register_forward_hook(keep)

    def _wants_attention(self) -> bool:
        return any(name == "attention" for name, _ in self.wanted)

    def _keep_angles(self, _module: nn.Module, args: tuple, output: tuple[Tensor, Tensor]) -> None:
        if self._wants_attention():
            self.values["attention", 0] = torch.stack(output)

    def _keep_embeddings(self, _module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if ("hidden", 0) in self.wanted:
            self.values["hidden", 0] = args[0] if args else kwargs["hidden_states"]
