"""Soft ranks and isotonic regression of many rows at once, against scikit-learn and finite differences."""

import numpy as np
import pytest
import sklearn.isotonic
import torch

from stages.objectives.soft_rank import isotonic_regression, soft_rank
from tests.makers.references import rank_softly


def test_isotonic_regression_is_scikit_learns():
    draw = np.random.default_rng(0)
    for n in (1, 2, 7, 60):
        y = draw.normal(size=(40, n)) + 0.1 * draw.choice([-n, 0, n], (40, 1)) * np.linspace(0, 1, n)
        y[:10] = y[:10].round()  # ties
        expected = [sklearn.isotonic.isotonic_regression(row, increasing=False) for row in y]
        assert isotonic_regression(torch.tensor(y)).numpy() == pytest.approx(np.array(expected), abs=1e-9)
        low = isotonic_regression(torch.tensor(y, dtype=torch.float32)).numpy()
        assert low == pytest.approx(np.array(expected), abs=1e-4)


def test_soft_ranks_of_rows_of_different_size():
    draw = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 10.0):
        z = scale * torch.randn(50, 8, generator=draw, dtype=torch.float64)
        real = torch.rand(50, 8, generator=draw) < 0.7
        real[:, 0] = True
        for row, ranks, counts in zip(z, soft_rank(z, real), real, strict=True):
            expected = rank_softly(row[counts].numpy())
            assert (ranks[counts] - (~counts).sum()).numpy() == pytest.approx(expected, abs=1e-9)
            assert counts.all() or ranks[~counts].max() < ranks[counts].min()


def test_soft_ranks_gradient_by_finite_differences():
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(20, 6, generator=draw, dtype=torch.float64, requires_grad=True)
    real = torch.rand(20, 6, generator=draw) < 0.8
    assert torch.autograd.gradcheck(lambda x: soft_rank(2 * x, real) * real, z)
    assert torch.autograd.gradcheck(isotonic_regression, z)
