"""The parts of a model by its family's row; GPT-2's Conv1D matrices as views and as linear modules."""

import pytest
import torch

from stages.distillation.capture import measure_shape
from stages.errors import BadInput
from stages.models.anatomy import ModelParts
from stages.models.modeling import replace_conv1d
from tests.makers.decoders import FAMILIES, make_decoder, read_token_logits
from tests.makers.encoders import make_encoder


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_decoders(family: str):
    parts = ModelParts(make_decoder(family))
    shape, gated = measure_shape(parts), family != "gpt2"
    assert (parts.depth, parts.heads, shape.key_heads) == (2, 4, 2 if gated else 4)
    widths = {"q": 16, "k": 8, "v": 8, "gate": 24, "up": 24, "down": 16, "hidden": 16}
    assert shape.widths == (widths if gated else {n: 16 for n in widths if n != "gate"} | {"up": 40})
    assert parts.neurons == (24 if gated else 40) and shape.causal
    assert shape.windows == ({1: 4096, 2: 4096} if family == "mistral" else {})
    matrices = sum(parts.get_matrix(name, 1).weight.numel() for name in parts.anatomy.matrices)
    assert matrices == (2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24 if gated else 4 * 16 * 16 + 2 * 16 * 40)
    assert parts.count_matrix_parameters() == 2 * matrices


def test_gpt2_with_linear_modules_is_the_same_model():
    model = make_decoder("gpt2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    linear = replace_conv1d(model)
    assert torch.allclose(read_token_logits(linear), read_token_logits(model), atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the model changed"
    assert linear.num_parameters() == model.num_parameters()
    views, modules = ModelParts(model), ModelParts(linear)
    for name, inputs in {"q": 16, "k": 16, "v": 16, "out": 16, "up": 16, "down": 40}.items():
        x = torch.randn(2, 3, inputs)
        assert torch.equal(views.get_matrix(name, 2).weight, modules.get_matrix(name, 2).weight)
        assert torch.allclose(views.get_matrix(name, 2)(x), modules.get_matrix(name, 2)(x), atol=1e-5)


def test_an_unknown_family_says_how_to_add_a_row():
    with pytest.raises(BadInput, match=r"`albert`.*FAMILIES.*families.py"):
        ModelParts(make_encoder("albert", embedding_size=16))
