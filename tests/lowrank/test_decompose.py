"""Decompositions against closed forms: SciPy's singular values, reduced-rank regression."""

import numpy as np
import pytest
import scipy.linalg
import torch

from stages.lowrank.decompose import Method, Statistics, bias_shift, cholesky_with_ridge, decompose, output_error
from tests.makers.factors import make_statistics


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (9, 9)])
@pytest.mark.parametrize("method", ["svd", "fisher", "whitened"])
def test_factors_are_the_optimum_of_their_norm(method: Method, shape: tuple[int, int]):
    """The weighted error equals the least possible by SciPy's singular values."""
    outputs, inputs = shape
    x, statistics = make_statistics(inputs, outputs)
    assert statistics.rows is not None
    w = np.random.default_rng(1).normal(size=shape)
    left = np.diag(np.sqrt(statistics.rows.numpy())) if method == "fisher" else np.eye(outputs)
    right = x.T / np.sqrt(len(x)) if method == "whitened" else np.eye(inputs)
    decomposition = decompose(torch.tensor(w), method, statistics)
    least = scipy.linalg.svdvals(left @ w @ right)
    for rank in (1, 3, min(shape)):
        a, b = (f.double().numpy() for f in decomposition.factors(rank))
        error = np.linalg.norm(left @ (w - a @ b) @ right)
        assert error == pytest.approx(np.sqrt((least[rank:] ** 2).sum()), rel=1e-4, abs=1e-5)


def test_output_error_is_that_of_real_inputs():
    x, statistics = make_statistics(12, 7)
    w = torch.randn(7, 12, dtype=torch.float64)
    a, b = decompose(w, "whitened", statistics).factors(3)
    dense, low_rank = x @ w.numpy().T, x @ (a.double() @ b.double()).numpy().T
    assert output_error(w, (a, b), statistics) == pytest.approx(
        np.linalg.norm(dense - low_rank) / np.linalg.norm(dense), rel=1e-6
    )


def test_with_a_bias_no_affine_map_of_that_rank_is_better():
    """Against reduced-rank regression with an intercept, solved by NumPy on the inputs themselves."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(400, 10)) * draw.uniform(0.1, 2, 10) + draw.normal(size=10) * 5
    statistics = Statistics(inputs=torch.tensor(x.T @ x / len(x)), mean=torch.tensor(x.mean(0)))
    w, bias = draw.normal(size=(6, 10)), draw.normal(size=6)
    y = x @ w.T + bias
    centered = y - y.mean(0)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    least = np.linalg.norm(centered - centered @ directions[:2].T @ directions[:2])

    a, b = (f.double() for f in decompose(torch.tensor(w), "whitened", statistics).factors(2))
    shifted = bias + bias_shift(torch.tensor(w), (a, b), statistics).numpy()
    assert np.linalg.norm(y - (x @ (a @ b).numpy().T + shifted)) == pytest.approx(least, rel=1e-5)
    relative = least / np.linalg.norm(centered)
    assert output_error(torch.tensor(w), (a, b), statistics) == pytest.approx(relative, rel=1e-5)


def test_cholesky_adds_a_ridge_only_where_it_must():
    _, statistics = make_statistics(12, 7)
    assert torch.equal(cholesky_with_ridge(statistics.inputs), torch.linalg.cholesky(statistics.inputs))
    singular = torch.zeros(4, 4, dtype=torch.float64)
    singular[0, 0] = 2.0
    factor = cholesky_with_ridge(singular)
    assert torch.allclose(factor @ factor.T, singular, atol=1e-6)
