"""Values that move during the training."""

import pytest

from stages.objectives import Ramp


@pytest.mark.parametrize(
    ("shape", "expected"), [("linear", [4, 3, 2, 2]), ("cosine", [4, 3, 2, 2]), ("step", [4, 4, 2, 2])]
)
def test_ramps(shape, expected):
    ramp = Ramp(start=4, end=2, until=0.5, shape=shape)
    assert [ramp.value_at(p) for p in (0, 0.25, 0.5, 1)] == pytest.approx(expected)
