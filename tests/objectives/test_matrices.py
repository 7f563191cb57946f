"""The matrix level against a loop."""

import numpy as np
import pytest

from stages.objectives import Matrices
from tests.makers.captured import (
    TOKEN_COUNTS,
    make_captured_pair,
    make_known_batch,
    make_shape,
    measure_relative_distance,
)


def test_matrices_equal_the_weighted_loop():
    student, teacher = make_captured_pair()
    weights = {"q": 1.0, "k": 1.0, "v": 2.0, "up": 0.5}
    layers = []
    for i in (1, 2):
        distances = {n: measure_relative_distance(student[n, i], teacher[n, i], TOKEN_COUNTS) for n in weights}
        layers.append(sum(w * distances[n] for n, w in weights.items()) / sum(weights.values()))
    term = Matrices(layers="all", maps=weights | {"down": 0})
    assert term(student, teacher, make_known_batch()).item() == pytest.approx(np.mean(layers), rel=1e-9)


def test_sparse_layers_are_every_kth_and_the_last():
    assert Matrices(every=2).layer_pairs(make_shape(7), make_shape(7)) == [(2, 2), (4, 4), (6, 6), (7, 7)]
    assert Matrices(every=3).layer_pairs(make_shape(6), make_shape(6)) == [(3, 3), (6, 6)]
    assert Matrices(every=2).layer_pairs(make_shape(3), make_shape(6)) == [(2, 4), (3, 6)]
