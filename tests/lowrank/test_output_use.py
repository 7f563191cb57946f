"""Which share of the tokens a matrix's output is read for."""

from typing import Any

import torch
from torch import Tensor, nn

from stages.lowrank.output_use import measure_output_use
from stages.models.anatomy import ModelParts
from tests.makers.encoders import make_encoder


def test_output_use_is_where_a_change_has_an_effect():
    """Against what happens to the logits when one token's output of a matrix is changed."""
    model = make_encoder("bert").double().eval()
    names = ModelParts(model).list_matrix_names()
    ids = torch.randint(5, 50, (1, 8))

    def change_logits(name: str, token: int) -> bool:
        def change_output(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            out = out.clone()
            out[:, token] += torch.linspace(1, 2, out.shape[-1])
            return out

        handle = model.get_submodule(name).register_forward_hook(change_output)
        try:
            return not torch.equal(model(input_ids=ids).logits, before)
        finally:
            handle.remove()

    with torch.no_grad():
        before = model(input_ids=ids).logits
        expected = {name: {True: 1.0, False: 1 / 16}[change_logits(name, 5)] for name in names}
        assert all(change_logits(name, 0) for name in names)
    assert measure_output_use(model, names) == expected
    assert list(expected.values()).count(1 / 16) == 4 and all(p.grad is None for p in model.parameters())


def test_a_language_model_uses_every_token():
    """But for the first token's query, which attends to that token alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    for name, share in measure_output_use(model, ModelParts(model).list_matrix_names()).items():
        assert share >= 15 / 16 if name.endswith("q_proj") else share == 1.0
