"""How much of what a matrix computes is ever read.

A classification head reads the first token of the last layer. That layer's queries, output and feed-forward are needed
for this one token, its keys and values for all. An exported graph computes no more than that
(stages/graph/rewrites/first_token.py), so that a rank in such a matrix costs storage and next to no time.

What is read is seen in the gradient: where no logit depends on a matrix's output, it is exactly 0.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stages.models.anatomy import Parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEXTS, TOKENS = 2, 16


def reach(model: "PreTrainedModel", names: list[str]) -> dict[str, float]:
    """Share of the tokens for which each named matrix's output reaches the logits: 1, or 1/16 where one token does
    (a text of 16 tokens is tried). Source: ours.
    """
    found: dict[str, float] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def seen(_: nn.Module, __: tuple, gradients: tuple[Tensor]) -> None:
            if gradients[0].shape[:2] == (TEXTS, TOKENS):
                found[name] = max(found.get(name, 0.0), float((gradients[0] != 0).any(-1).float().mean()))

        return module.register_full_backward_hook(seen)

    handles = [watch(name, model.get_submodule(name)) for name in names]
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(len(Parts(model.eval()).words.weight), (TEXTS, TOKENS), generator=draw).to(model.device)
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        (logits * torch.randn(logits.shape, generator=draw).to(logits)).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    return {name: found.get(name, 1.0) for name in names}
