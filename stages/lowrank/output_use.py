"""How much of a matrix's output is ever read.

A classification head reads the first token of the last layer. That layer's queries, output and feed-forward are needed
for this one token, its keys and values for all. An exported graph computes no more than that
(stages/graph/rewrites/first_token.py), so that a rank in such a matrix costs storage and next to no time.

Which outputs are read shows in the gradient: where no logit depends on a matrix's output, it is exactly 0.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.models.anatomy import ModelParts

TEXTS, TOKENS = 2, 16


def measure_output_use(model: PreTrainedModel, names: list[str]) -> dict[str, float]:
    """Share of the tokens for which each named matrix's output reaches the logits: 1, or 1/16 where one token does
    (a text of 16 tokens is tried). Source: ours.
    """
    used: dict[str, float] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def measure(_: nn.Module, __: tuple, gradients: tuple[Tensor]) -> None:
            if gradients[0].shape[:2] == (TEXTS, TOKENS):
                used[name] = max(used.get(name, 0.0), float((gradients[0] != 0).any(-1).float().mean()))

        return module.register_full_backward_hook(measure)

    handles = [watch(name, model.get_submodule(name)) for name in names]
    generator = torch.Generator().manual_seed(0)
    words = len(ModelParts(model.eval()).word_embedding.weight)
    ids = torch.randint(words, (TEXTS, TOKENS), generator=generator).to(model.device)
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        (logits * torch.randn(logits.shape, generator=generator).to(logits)).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    return {name: used.get(name, 1.0) for name in names}
