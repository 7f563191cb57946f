"""Points of a plot that share a place are moved aside, the others stay."""

import numpy as np
import pytest

from stages.comparison.plots import spread_points


def test_points_of_one_place_fan_out_around_it_and_others_stay() -> None:
    assert spread_points([1.0, 5.0, 5.0, 5.0, 9.0], 0.5) == pytest.approx([1.0, 4.5, 5.0, 5.5, 9.0])
    assert spread_points([0.0, 1.0], 0.5) == [0.0, 1.0] and spread_points([3.0], 0.5) == [3.0]
    crowd = spread_points([2.0, 2.0, 2.3, 2.4], 0.5)
    assert min(np.diff(crowd)) >= 0.5 - 1e-9 and np.mean(crowd) == pytest.approx(np.mean([2.0, 2.0, 2.3, 2.4]))
