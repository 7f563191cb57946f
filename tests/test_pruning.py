"""What prune is made of: scores, masks, schedule, targets against plain loops."""

import numpy as np
import pytest
import torch
from test_students import FAMILIES, sentences, teacher
from torch import nn
from transformers import AutoModelForMaskedLM

from stages.models.anatomy import Parts
from stages.pruning.compact import axes, compact
from stages.pruning.importance import Importance
from stages.pruning.masks import MaskedNorm, Masks
from stages.pruning.schedule import Schedule, Widths
from stages.pruning.targets import resolve
from stages.settings import BadInput, Prune, Target


def masked_lm(family: str, layers: int = 2, width: int = 20, neurons: int = 23):
    """A random masked language model of four heads."""
    return AutoModelForMaskedLM.from_config(teacher(family, layers, width, neurons).config).eval()


def said(model) -> torch.Tensor:
    batch = sentences()
    with torch.inference_mode():
        return model(**batch).logits[batch["attention_mask"].bool()]


def drawn(masks: Masks, seed: int = 0) -> dict:
    """A score for every dimension."""
    generator = torch.Generator().manual_seed(seed)
    return {axis: torch.rand(len(gone), generator=generator) for axis, gone in masks.gone().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_that_is_pruned_computes_what_its_compact_copy_does(family):
    """Odd widths, cut twice."""
    model = masked_lm(family)
    before, masks = said(model), Masks(model)
    masks.refresh()
    assert torch.equal(said(model), before), "nothing has gone yet"
    for step, widths in ((3, Widths(residual=17, neurons=19)), (5, Widths(residual=12, neurons=13))):
        masks.cut(drawn(masks, step), widths, step)
        masks.refresh()
    small = compact(model, masks.kept())
    assert (small.config.hidden_size, Parts(small).neurons) == (12, 13)
    assert torch.allclose(said(model), said(small), atol=1e-5)
    assert not torch.allclose(said(small), before, atol=1e-2)


def test_what_goes_is_what_scores_least_of_what_is_there():
    model = masked_lm("bert")
    masks = Masks(model)
    first, second = drawn(masks, 1), drawn(masks, 2)
    masks.cut(first, Widths(residual=16, neurons=20), 3)
    masks.cut(second, Widths(residual=12, neurons=13), 5)
    for axis, gone in masks.gone().items():
        heads = 4 if axis[0] in ("qk", "vo") else 1
        widths = (20, 13) if axis[0] == "ffn" else (16, 12)
        parts = (x.view(heads, -1) for x in (gone, first[axis], second[axis]))
        for part, one, two in zip(*parts, strict=True):
            early = set(range(len(part))) - set(np.argsort(-one.numpy())[: widths[0] // heads].tolist())
            left = sorted(set(range(len(part))) - early, key=lambda i: -two[i])
            expected = [3 if i in early else 5 if i in left[widths[1] // heads :] else 0 for i in range(len(part))]
            assert part.tolist() == expected, axis


def test_gradients_do_not_bring_back_what_has_gone():
    model = masked_lm("bert").train()
    masks = Masks(model)
    masks.cut(drawn(masks), Widths(residual=12, neurons=13), 1)
    masks.refresh()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        batch = sentences()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        masks.apply_masks()
    layout = axes(model)
    for name, weight in model.named_parameters():
        for dimension, axis in enumerate(layout[name]):
            if axis in masks.gone():
                there = masks.gone()[axis] == 0
                slices = weight.detach().transpose(0, dimension)
                assert not slices[~there].any() and slices[there].any(), name
    assert torch.allclose(said(model.eval()), said(compact(model, masks.kept())), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_masked_norm_is_the_norm_of_the_survivors(dtype):
    torch.manual_seed(0)
    there = torch.rand(11) < 0.6
    x = (torch.randn(5, 11) * 3 + 1).masked_fill(~there, 0.0).to(dtype)
    norm = MaskedNorm(11, eps=0.1)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    norm.there, norm.share = there, float(there.float().mean())
    found = norm(x)
    for row, out in zip(x.double(), found, strict=True):
        alive = row[there]
        expected = (alive - alive.mean()) / (alive.var(correction=0) + 0.1).sqrt()
        expected = expected * norm.weight.detach().double()[there] + norm.bias.detach().double()[there]
        assert torch.allclose(out[there].double(), expected, atol=1e-5)
    leaf = x.float().requires_grad_()
    norm(leaf)[:, there].square().sum().backward()
    assert not leaf.grad[:, ~there].any(), "what has gone is not even seen by the gradient"


@pytest.mark.parametrize("metric", ["platon", "sensitivity", "magnitude"])
def test_importance_equals_a_loop_over_the_formula(metric):
    model = masked_lm("bert")
    importance = Importance(model, metric, (0.85, 0.95), seed=0)
    mean, deviation = {}, {}
    for step in range(3):
        torch.manual_seed(step)
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        importance.update()
        for name, weight in model.named_parameters():
            found = (weight.detach() * weight.grad).abs().double()
            mean[name] = 0.85 * mean.get(name, 0) + (1 - 0.85) * found
            deviation[name] = 0.95 * deviation.get(name, 0) + (1 - 0.95) * (found - mean[name]).abs()
    expected: dict = {}
    layout = axes(model)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            score = {
                "platon": mean[name] * deviation[name],
                "sensitivity": mean[name],
                "magnitude": weight.detach().double().abs(),
            }[metric]
            for row in range(weight.shape[0]):
                for dimension, place in ((0, row), (1, slice(None))):
                    if axis := layout[name][dimension]:
                        total = expected.setdefault(axis, torch.zeros(weight.shape[dimension], dtype=torch.float64))
                        total[place] += score[row].sum() if dimension == 0 else score[row]
    scores = importance.scores(3)
    assert scores.keys() == expected.keys()
    for axis, values in scores.items():
        assert torch.allclose(values.double(), expected[axis], rtol=1e-4), axis


def test_random_scores_follow_seed_and_step():
    model = masked_lm("bert")
    one, same, other = (Importance(model, "random", (0.0, 0.0), seed) for seed in (1, 1, 2))
    axis = ("residual", 0)
    assert torch.equal(one.scores(4)[axis], same.scores(4)[axis])
    assert not torch.equal(one.scores(4)[axis], one.scores(5)[axis])
    assert not torch.equal(one.scores(4)[axis], other.scores(4)[axis])


def test_the_schedule_is_the_cubic_one():
    whole, half, third = (Widths(residual=n, neurons=4 * n) for n in (96, 48, 32))
    plan = Schedule(whole=whole, targets=(half, third), warmup=0.1, reached=0.7)
    assert plan.widths(0.049) == whole and plan.widths(0.36) == half and plan.widths(1.0) == third
    for progress in np.linspace(0.05, 0.35, 13):  # the first target's part is half of the training
        x = (2 * progress - 0.1) / 0.6
        assert plan.widths(progress).residual == int(np.ceil(round(48 + 48 * (1 - x) ** 3, 9))), progress
    assert [plan.rate(p) for p in (0.0, 0.025, 0.05, 0.275, 0.525)] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.5])
    assert plan.ends(101) == [50, 101]
    once = Schedule(whole=whole, targets=(half,), warmup=0.1, reached=0.7, shape="oneshot")
    assert (once.widths(0.09), once.widths(0.1)) == (whole, half)


def test_targets_are_met():
    model = masked_lm("bert", layers=3, width=48, neurons=96)
    shares = resolve([0.75, 0.5], model)
    assert shares == (Widths(residual=36, neurons=72), Widths(residual=24, neurons=48))
    assert resolve([Target(hidden_size=36)], model) == (Widths(residual=36, neurons=72),)
    for target in (Target(budget=0.5), Target(budget=0.2), Target(params=int(0.6 * model.num_parameters()))):
        widths = resolve([target], model)[0]
        masks = Masks(copied := compact(model, {}))
        masks.cut(drawn(masks), widths, 1)
        made = compact(copied, masks.kept())
        layers, all_of_it = Parts(made).layer_parameters() / Parts(model).layer_parameters(), made.num_parameters()
        met = layers / target.budget if target.budget else all_of_it / target.params
        assert 0.98 < met <= 1, target
    wide, slim = resolve([Target(hidden_size=24), Target(budget=0.22)], model)
    assert slim.residual < wide.residual and slim.neurons == wide.neurons, "neurons that went do not come back"


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ([0.5, 0.75], "0.75, a hidden size of 36, which is not between 0 and the 24 before it"),
        ([0.001], "a hidden size of 0"),
        ([Target(hidden_size=30)], "hidden_size 30 is no multiple of the model's 4 heads; use one, like 28"),
        ([Target(params=10)], "the narrowest model has"),
    ],
)
def test_targets_that_cannot_be_are_refused(targets, sentence):
    with pytest.raises(BadInput, match=sentence):
        resolve(targets, masked_lm("bert", layers=2, width=48, neurons=96))


def test_settings_that_cannot_work_are_refused():
    for changes, sentence in (
        ({"reached": 0.05}, "reached 0.05 must come after warmup 0.1"),
        ({"targets": [{"hidden_size": 8, "budget": 0.5}]}, "a target is one of"),
        ({"targets": []}, "at least 1"),
        ({"start": {"start": "small"}}, "start.start small is for `factorize`"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Prune(**changes)
