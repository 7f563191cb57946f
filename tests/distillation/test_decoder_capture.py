"""Attention of decoders, rebuilt from captured queries and keys, against the library's own."""

import pytest
import torch

from stages.distillation.capture import Capture
from stages.objectives import AttentionKL
from tests.makers.decoder_capture import CASES, capture_aspects, describe_causal_batch, make_inputs
from tests.makers.decoders import factorize_decoder, make_decoder


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", CASES)
def test_rebuilt_attention_is_the_librarys(case, side):
    """Beside fused attention, against the maps that the eager one returns; dense and low-rank."""
    family, changes = CASES[case]
    model = make_decoder(family, layers=3, **changes)
    batch = describe_causal_batch(side)
    for each in (model, factorize_decoder(model)):
        with torch.no_grad():
            captured = capture_aspects(each, AttentionKL(), side)
            each.set_attn_implementation("eager")
            maps = each(**make_inputs(side), output_attentions=True).attentions
        real = batch.mask.bool()[:, None, :, None].expand_as(maps[0])
        for layer in (1, 2, 3):
            rebuilt = captured.attention_scores(layer, batch).softmax(-1)
            assert torch.allclose(rebuilt[real], maps[layer - 1][real], atol=1e-5)


def test_positions_are_those_that_the_model_was_given():
    """`generate` counts a left-padded prompt from its first real token."""
    model, inputs = make_decoder("llama"), make_inputs("left")
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    aspects = {(name, 1) for name in AttentionKL().captured_aspects("teacher")}
    with torch.no_grad():
        captured = Capture(model, aspects)(model, inputs, aspects)
        model.set_attn_implementation("eager")
        attention_map = model(**inputs, output_attentions=True).attentions[0]
    batch = describe_causal_batch("left")
    real = batch.mask.bool()[:, None, :, None].expand_as(attention_map)
    rebuilt = captured.attention_scores(1, batch).softmax(-1)
    assert torch.allclose(rebuilt[real], attention_map[real], atol=1e-5)
