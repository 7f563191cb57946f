"""Quantization: smoothing moves the outliers of activations into the weights, and nothing else."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from stages.graph import quantize


def measure_spread(ranges: dict[str, np.ndarray]) -> float:
    """By how much the largest channel exceeds the median one, as a mean logarithm."""
    return float(np.mean([np.log(r.max() / max(np.median(r), 1e-6)) for r in ranges.values()]))


def test_smoothing_changes_nothing_but_the_ranges(review_chain: Path) -> None:
    """The smoothed float graph computes the same; outlier channels of the activations are gone."""
    model = onnx.load(review_chain / "student/onnx/model.onnx")
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 120, size=(3, 9))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, batch)[0]
    ranges = quantize._measure_ranges(model, [batch])
    quantize.smooth_activations(model, ranges)
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, batch)[0]
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert measure_spread(quantize._measure_ranges(model, [batch])) < measure_spread(ranges)
