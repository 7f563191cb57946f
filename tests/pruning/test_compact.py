"""Narrower models against the whole one with the other dimensions masked."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.models.anatomy import ModelParts
from stages.pruning.compact import Axis, compact_model
from tests.makers.encoders import FAMILIES, make_batch, make_teacher, read_logits
from tests.makers.pruning import draw_indices, make_masked_lm


class ReferenceNorm(nn.Module):
    """A layer norm whose statistics are those of the surviving dimensions; the others come out as 0."""

    def __init__(self, norm: nn.LayerNorm, mask: Tensor) -> None:
        super().__init__()
        self.norm, self.mask = norm, mask

    def forward(self, x: Tensor) -> Tensor:
        count = self.mask.sum()
        mean = (x * self.mask).sum(-1, keepdim=True) / count
        variance = ((x - mean).square() * self.mask).sum(-1, keepdim=True) / count
        return ((x - mean) / (variance + self.norm.eps).sqrt() * self.norm.weight + self.norm.bias) * self.mask


def mask_model(model: PreTrainedModel, width: int, neurons: int, indices: dict[Axis, Tensor]) -> None:
    """Turns a model of two layers into its masked self: zeros wherever a dimension is dropped."""

    def make_mask(axis: Axis, size: int) -> Tensor:
        return torch.zeros(size).index_fill(0, indices[axis], 1.0) if axis in indices else torch.ones(size)

    residual = make_mask(("residual", 0), width)
    counts = dict.fromkeys(("q", "k", "v", "down"), 0)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.LayerNorm) and module.normalized_shape == (width,):
            model.set_submodule(name, ReferenceNorm(module, residual))
        if name.endswith("embeddings_project"):
            module.register_forward_hook(lambda m, i, out: out * residual)
        for kind, ends in {"q": ("query", "q_lin"), "k": ("key", "k_lin"), "v": ("value", "v_lin")}.items():
            if name.endswith(ends):
                counts[kind] += 1
                heads = make_mask(("vo" if kind == "v" else "qk", counts[kind]), width)
                module.register_forward_hook(lambda m, i, out, heads=heads: out * heads)
        if isinstance(module, nn.Linear) and module.in_features == neurons:
            counts["down"] += 1
            alive = make_mask(("ffn", counts["down"]), neurons)
            module.register_forward_pre_hook(lambda m, args, alive=alive: (args[0] * alive,))
    for name in ("classifier.out_proj", "classifier"):
        if isinstance(head := dict(model.named_modules()).get(name), nn.Linear):
            head.register_forward_pre_hook(lambda m, args: (args[0] * make_mask(("head", 0), width),))
    assert counts == dict.fromkeys(counts, 2)


@pytest.mark.parametrize("family", [*FAMILIES, "electra of one width"])
@pytest.mark.parametrize("task", ["classifier", "masked_lm"])
def test_compact_is_the_masked_model(family: str, task: str, tmp_path: Path):
    """Odd sizes: 5 to 3 dimensions a head, 23 to 13 neurons; also with the feed-forward alone cut."""
    changes = {"embedding_size": 20} if family == "electra of one width" else {}
    family = family.split()[0]
    make_model = make_masked_lm if task == "masked_lm" else make_teacher
    whole = make_model(family, 2, 20, 23, **changes)
    batch = make_batch()
    if family in ("bert", "electra"):
        batch["token_type_ids"] = (torch.arange(9) > 4).long().expand(3, -1)
    expected = read_logits(whole, batch)
    indices = draw_indices(2, (20, 23), (12, 13), task_head=task == "classifier")
    student = compact_model(whole, indices)
    neurons = {axis: each for axis, each in indices.items() if axis[0] == "ffn"}
    shorter, same = compact_model(whole, neurons), compact_model(whole, {})
    assert torch.equal(read_logits(same, batch), expected)
    narrow, short = read_logits(student, batch), read_logits(shorter, batch)
    mask_model(masked := compact_model(whole, {}), 20, 23, neurons)
    assert torch.allclose(short, read_logits(masked, batch), atol=1e-5)
    mask_model(whole, 20, 23, indices)
    assert torch.allclose(narrow, read_logits(whole, batch), atol=1e-5)
    assert narrow.std() > 0.05 and not torch.allclose(narrow, expected, atol=1e-2)
    student.save_pretrained(tmp_path)
    loaded, report = type(student).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()) and torch.equal(read_logits(loaded.eval(), batch), narrow)
    parts = ModelParts(loaded)
    assert (student.config.hidden_size, parts.neurons, parts.heads) == (12, 13, 4)


def test_heads_of_different_sizes_are_refused():
    whole = make_teacher("bert", 1)
    for wrong in (torch.arange(8), torch.tensor([8, 9, 0, 1, 16, 17, 24, 25]), torch.tensor([0, 1, 8, 9, 16, 17, 24])):
        with pytest.raises(ValueError, match=r"qk of layer 1: [78] indices are not the same number of each of 4 heads"):
            compact_model(whole, {("residual", 0): torch.arange(8), ("qk", 1): wrong})
