"""Masks of a model that is being pruned: it computes what its compact copy does, and what is removed stays removed."""

import numpy as np
import pytest
import torch
from torch import nn

from stages.models.anatomy import ModelParts
from stages.pruning.compact import compact_model, map_axes
from stages.pruning.masks import MaskedNorm, PruningMasks
from stages.pruning.schedule import Widths
from tests.makers.encoders import FAMILIES, make_batch, read_logits
from tests.makers.pruning import draw_scores, make_masked_lm


@pytest.mark.parametrize("family", FAMILIES)
def test_the_masked_model_computes_what_its_compact_copy_does(family: str):
    """Odd widths, pruned twice."""
    model, batch = make_masked_lm(family), make_batch()
    before, masks = read_logits(model, batch), PruningMasks(model)
    masks.update_norms()
    assert torch.equal(read_logits(model, batch), before), "nothing is removed yet"
    for step, widths in ((3, Widths(residual=17, neurons=19)), (5, Widths(residual=12, neurons=13))):
        masks.remove_dimensions(draw_scores(masks, step), widths, step)
        masks.update_norms()
    compact = compact_model(model, masks.kept_indices())
    assert (compact.config.hidden_size, ModelParts(compact).neurons) == (12, 13)
    assert torch.allclose(read_logits(model, batch), read_logits(compact, batch), atol=1e-5)
    assert not torch.allclose(read_logits(compact, batch), before, atol=1e-2)


def test_the_lowest_scores_of_the_remaining_dimensions_are_removed():
    masks = PruningMasks(make_masked_lm("bert"))
    first, second = draw_scores(masks, 1), draw_scores(masks, 2)
    masks.remove_dimensions(first, Widths(residual=16, neurons=20), 3)
    masks.remove_dimensions(second, Widths(residual=12, neurons=13), 5)
    for axis, steps in masks.removal_steps().items():
        heads = 4 if axis[0] in ("qk", "vo") else 1
        widths = (20, 13) if axis[0] == "ffn" else (16, 12)
        parts = (x.view(heads, -1) for x in (steps, first[axis], second[axis]))
        for part, early_scores, late_scores in zip(*parts, strict=True):
            stay = np.argsort(-early_scores.numpy())[: widths[0] // heads].tolist()
            early = set(range(len(part))) - set(stay)
            left = sorted(set(range(len(part))) - early, key=lambda i: -late_scores[i])
            expected = [3 if i in early else 5 if i in left[widths[1] // heads :] else 0 for i in range(len(part))]
            assert part.tolist() == expected, axis


def test_gradients_do_not_restore_removed_dimensions():
    model, batch = make_masked_lm("bert").train(), make_batch()
    masks = PruningMasks(model)
    masks.remove_dimensions(draw_scores(masks), Widths(residual=12, neurons=13), 1)
    masks.update_norms()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        masks.apply_masks()
    layout, steps = map_axes(model), masks.removal_steps()
    for name, weight in model.named_parameters():
        for dimension, axis in enumerate(layout[name]):
            if axis in steps:
                remains = steps[axis] == 0
                slices = weight.detach().transpose(0, dimension)
                assert not slices[~remains].any() and slices[remains].any(), name
    compact = compact_model(model, masks.kept_indices())
    assert torch.allclose(read_logits(model.eval(), batch), read_logits(compact, batch), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_masked_norm_is_the_norm_of_the_remaining_dimensions(dtype: torch.dtype):
    torch.manual_seed(0)
    remains = torch.rand(11) < 0.6
    x = (torch.randn(5, 11) * 3 + 1).masked_fill(~remains, 0.0).to(dtype)
    norm = MaskedNorm(11, eps=0.1)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    norm.remains, norm.share = remains, float(remains.float().mean())
    for row, out in zip(x.double(), norm(x), strict=True):
        alive = row[remains]
        expected = (alive - alive.mean()) / (alive.var(correction=0) + 0.1).sqrt()
        expected = expected * norm.weight.detach().double()[remains] + norm.bias.detach().double()[remains]
        assert torch.allclose(out[remains].double(), expected, atol=1e-5)
    leaf = x.float().requires_grad_()
    norm(leaf)[:, remains].square().sum().backward()
    assert not leaf.grad[:, ~remains].any(), "the gradient does not depend on a removed dimension"
