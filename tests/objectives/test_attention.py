"""Attention objectives of encoders, against loops over heads, queries and keys."""

from collections.abc import Callable

import numpy as np
import pytest

from stages.distillation.capture import CapturedOutputs
from stages.objectives import AttentionKL, AttentionMSE, Relations
from tests.makers.captured import TOKEN_COUNTS, make_captured, make_captured_pair, make_known_batch
from tests.makers.references import kl_divergence


def multiply_row(
    model: CapturedOutputs, names: tuple[str, str], at: tuple[int, int, int, int, int], heads: int
) -> np.ndarray:
    """Row i of XYᵀ/√d in one head of one example: (layer, example, head, i, real tokens) -> (tokens,)."""
    layer, b, h, i, n = at
    x, y = (model[name, layer][b].numpy() for name in names)
    d = x.shape[-1] // heads
    columns = slice(h * d, h * d + d)
    return np.array([x[i, columns] @ y[j, columns] for j in range(n)]) / np.sqrt(d)


def average_heads(
    models: tuple[CapturedOutputs, CapturedOutputs],
    layers: tuple[int, int],
    names: tuple[str, str],
    heads: int,
    distance: Callable[[np.ndarray, np.ndarray], float],
) -> float:
    """Mean over examples of the mean over heads and real queries of distance(teacher's row, student's row)."""
    examples = []
    for b, n in enumerate(TOKEN_COUNTS):
        rows = [
            distance(*(multiply_row(m, names, (at, b, h, i, n), heads) for m, at in zip(models, layers, strict=True)))
            for h in range(heads)
            for i in range(n)
        ]
        examples.append(np.mean(rows))
    return float(np.mean(examples))


def test_attention_kl_equals_the_loop():
    student, teacher = make_captured_pair()
    batch = make_known_batch()
    per_layer = [average_heads((teacher, student), (i, i), ("q", "k"), 2, kl_divergence) for i in (1, 2)]
    assert AttentionKL()(student, teacher, batch).item() == pytest.approx(np.mean(per_layer), rel=1e-9)
    assert AttentionKL(layers=[2])(student, teacher, batch).item() == pytest.approx(per_layer[1], rel=1e-9)
    # the student's only layer learns from the teacher's last
    student = make_captured(depth=1)
    expected = average_heads((teacher, student), (2, 1), ("q", "k"), 2, kl_divergence)
    assert AttentionKL()(student, teacher, batch).item() == pytest.approx(expected, rel=1e-9)


def test_attention_mse_equals_the_loop():
    student, teacher = make_captured_pair()
    per_layer = [
        average_heads((teacher, student), (i, i), ("q", "k"), 2, lambda t, s: np.mean((t - s) ** 2)) for i in (1, 2)
    ]
    value = AttentionMSE()(student, teacher, make_known_batch())
    assert value.item() == pytest.approx(np.mean(per_layer), rel=1e-9)


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_relations_equal_the_loop_at_other_widths_and_heads(heads):
    student, teacher = make_captured_pair(student={"heads": 3}, teacher={"width": 12, "heads": 2, "depth": 4})
    weights, batch = {"q": 1.0, "k": 0.5, "v": 2.0}, make_known_batch()
    per_map = {name: average_heads((teacher, student), (3, 2), (name, name), heads, kl_divergence) for name in weights}
    expected = sum(w * per_map[name] for name, w in weights.items()) / sum(weights.values())
    term = Relations(heads=heads, layers=[(2, 3)], **weights)
    assert term(student, teacher, batch).item() == pytest.approx(expected, rel=1e-9)
    values = Relations(heads=heads, q=0, k=0)
    last = average_heads((teacher, student), (4, 2), ("v", "v"), heads, kl_divergence)
    assert values(student, teacher, batch).item() == pytest.approx(last, rel=1e-9)
