"""Sampling has the distribution of Transformers' own warpers."""

import numpy as np
import pytest
import torch

from serving.sampling import Sampling


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.3, "top_p": 0.6},
        {"temperature": 0.9, "top_k": 12, "top_p": 0.8},
        {"temperature": 1.0, "top_p": 1e-6},
    ],
)
def test_sampling_has_the_librarys_distribution(settings: dict) -> None:
    """One step against Transformers' own warpers; draws against the distribution."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    torch.manual_seed(0)
    logits = 2 * torch.randn(3, 40)
    warped = TemperatureLogitsWarper(settings["temperature"])(None, logits)
    if "top_k" in settings:
        warped = TopKLogitsWarper(settings["top_k"])(None, warped)
    if "top_p" in settings:
        warped = TopPLogitsWarper(settings["top_p"])(None, warped)
    sampling, expected = Sampling(seed=3, **settings), warped.softmax(-1).numpy()
    np.testing.assert_allclose(sampling.shares(logits.numpy()), expected, atol=1e-6)
    generators = sampling.generators(3)
    drawn = np.array([sampling.choose(logits.numpy(), generators) for _ in range(3000)])
    shares = np.stack([np.bincount(row, minlength=40) for row in drawn.T]) / 3000
    assert np.abs(shares - expected).max() < 0.04 and not shares[expected == 0].any()
