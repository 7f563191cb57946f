"""Which layers are compared with which, and models that cannot be compared."""

import pytest

from stages.objectives import AttentionKL, AttentionMSE, HiddenStates, Matrices, Relations
from stages.objectives.base import map_layers
from tests.makers.captured import make_shape


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "expected"),
    [
        ("skip", 3, 6, [(1, 2), (2, 4), (3, 6)]),
        ("skip", 4, 6, [(1, 2), (2, 3), (3, 4), (4, 6)]),
        ("skip", 5, 12, [(1, 2), (2, 5), (3, 7), (4, 10), (5, 12)]),
        ("skip", 2, 2, [(1, 1), (2, 2)]),
        ("skip", 6, 3, [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3)]),
        ("last", 3, 6, [(3, 6)]),
        ("all", 3, 3, [(1, 1), (2, 2), (3, 3)]),
        ([1, 3], 3, 6, [(1, 1), (3, 3)]),
        ([(1, 4), (3, 5)], 3, 6, [(1, 4), (3, 5)]),
    ],
)
def test_layer_maps(layers, student, teacher, expected):
    assert map_layers(layers, student, teacher) == expected


@pytest.mark.parametrize(
    ("term", "student", "teacher", "message"),
    [
        (HiddenStates(layers="all"), {}, {}, "`all` needs equal depths, not 3 and 6; use `skip`"),
        (HiddenStates(layers=[4]), {}, {}, r"layers \[4\] do not exist: the student has layers 1 to 3"),
        (HiddenStates(layers=[(3, 7)]), {}, {}, r"\[7\] do not exist: the teacher has layers 1 to 6"),
        (HiddenStates(layers=[]), {}, {}, "layers is empty"),
        (AttentionMSE(), {"heads": 2}, {}, "the student has 2, the teacher 4; use `relations`"),
        (AttentionKL(), {"heads": 2}, {}, "the student has 2, the teacher 4; use `relations`"),
        (Relations(heads=3), {}, {}, "heads 3 does not divide the student's width 8"),
        (Relations(heads=8), {}, {"width": 12}, "heads 8 does not divide the teacher's width 12"),
        (Matrices(mode="local"), {"depth": 6, "width": 6}, {}, "widths must be equal"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(term, student, teacher, message):
    shapes = make_shape(**{"depth": 3} | student), make_shape(**{"depth": 6} | teacher)
    with pytest.raises(ValueError, match=message):
        term.layer_pairs(*shapes)
