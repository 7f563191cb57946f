"""Hidden-state objectives against loops, and the projections that they learn where widths differ."""

import numpy as np
import pytest

from stages.distillation.capture import CapturedOutputs
from stages.objectives import Embedding, HiddenCosine, HiddenStates, Matrices
from tests.makers.captured import TOKEN_COUNTS, make_captured_pair, make_known_batch, measure_relative_distance


@pytest.mark.parametrize("tokens", ["all", "first"])
def test_hidden_states_equal_the_loop(tokens):
    student, teacher = make_captured_pair()
    counts = TOKEN_COUNTS if tokens == "all" else [1, 1, 1]
    layers = [measure_relative_distance(student["hidden", i], teacher["hidden", i], counts) for i in (1, 2)]
    value = HiddenStates(tokens=tokens)(student, teacher, make_known_batch())
    assert value.item() == pytest.approx(np.mean(layers), rel=1e-9)


def test_hidden_cosine_equals_the_loop():
    student, teacher = make_captured_pair()
    examples = []
    for b, n in enumerate(TOKEN_COUNTS):
        s, t = student["hidden", 2][b].numpy(), teacher["hidden", 2][b].numpy()
        examples.append(np.mean([1 - s[i] @ t[i] / np.linalg.norm(s[i]) / np.linalg.norm(t[i]) for i in range(n)]))
    value = HiddenCosine()(student, teacher, make_known_batch())
    assert value.item() == pytest.approx(np.mean(examples), rel=1e-9)


def test_embedding_equals_the_loop():
    student, teacher = make_captured_pair()
    expected = measure_relative_distance(student["hidden", 0], teacher["hidden", 0], TOKEN_COUNTS)
    assert Embedding()(student, teacher, make_known_batch()).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("term", [HiddenStates(), Embedding(), HiddenCosine()], ids=lambda t: type(t).__name__)
def test_a_projection_is_learned_where_widths_differ(term):
    student, teacher = make_captured_pair(student={"width": 4}, teacher={"width": 6})
    learned = term.learned_modules(student.shape, teacher.shape, []).double()
    projection = learned["hidden"].weight
    values = {aspect: value @ projection.T for aspect, value in student.values.items()}
    wide = CapturedOutputs(teacher.parts, teacher.shape, student.logits, values)
    expected = term(wide, teacher, make_known_batch()).item()
    value = term(student, teacher, make_known_batch(), learned)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    value.backward()
    assert projection.grad.abs().sum() > 0


def test_each_map_has_its_projection_and_equal_widths_have_none():
    student, teacher = make_captured_pair(student={"width": 4}, teacher={"width": 6})
    maps = Matrices(layers="all").learned_modules(student.shape, teacher.shape, [])
    assert set(maps) == {"q", "k", "v", "up", "down"} and maps["up"].weight.shape == (6, 4)
    assert HiddenStates().learned_modules(teacher.shape, teacher.shape, []) is None
