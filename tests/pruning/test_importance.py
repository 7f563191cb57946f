"""Importance of dimensions against a plain loop over its formula."""

import pytest
import torch
from torch import Tensor

from stages.pruning.compact import Axis, map_axes
from stages.pruning.importance import Importance, Metric
from tests.makers.pruning import make_masked_lm


@pytest.mark.parametrize("metric", ["platon", "sensitivity", "magnitude"])
def test_importance_equals_a_loop_over_the_formula(metric: Metric):
    model = make_masked_lm("bert")
    importance = Importance(model, metric, (0.85, 0.95), seed=0)
    mean: dict[str, Tensor] = {}
    deviation: dict[str, Tensor] = {}
    for step in range(3):
        torch.manual_seed(step)
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        importance.accumulate()
        for name, weight in model.named_parameters():
            sensitivity = (weight.detach() * weight.grad).abs().double()
            mean[name] = 0.85 * mean.get(name, 0) + (1 - 0.85) * sensitivity
            deviation[name] = 0.95 * deviation.get(name, 0) + (1 - 0.95) * (sensitivity - mean[name]).abs()
    expected: dict[Axis, Tensor] = {}
    layout = map_axes(model)
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
    scores = importance.compute_scores(3)
    assert scores.keys() == expected.keys()
    for axis, values in scores.items():
        assert torch.allclose(values.double(), expected[axis], rtol=1e-4), axis


def test_random_scores_follow_seed_and_step():
    model = make_masked_lm("bert")
    first, same, other = (Importance(model, "random", (0.0, 0.0), seed) for seed in (1, 1, 2))
    axis: Axis = ("residual", 0)
    assert torch.equal(first.compute_scores(4)[axis], same.compute_scores(4)[axis])
    assert not torch.equal(first.compute_scores(4)[axis], first.compute_scores(5)[axis])
    assert not torch.equal(first.compute_scores(4)[axis], other.compute_scores(4)[axis])
