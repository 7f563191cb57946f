"""The pruning schedule: cubic widths, one learning-rate triangle per target."""

import numpy as np
import pytest

from stages.pruning.schedule import PruningSchedule, Widths


def test_the_schedule_is_the_cubic_one():
    whole, half, third = (Widths(residual=n, neurons=4 * n) for n in (96, 48, 32))
    schedule = PruningSchedule(whole=whole, targets=(half, third), warmup_ratio=0.1, pruning_end=0.7)
    assert schedule.widths_at(0.049) == whole
    assert schedule.widths_at(0.36) == half and schedule.widths_at(1.0) == third
    for progress in np.linspace(0.05, 0.35, 13):  # the first target's part is half of the training
        x = (2 * progress - 0.1) / 0.6
        expected = int(np.ceil(round(48 + 48 * (1 - x) ** 3, 9)))
        assert schedule.widths_at(progress).residual == expected, progress
    rates = [schedule.rate_at(progress) for progress in (0.0, 0.025, 0.05, 0.275, 0.525)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.5])
    assert schedule.end_steps(101) == [50, 101]
    oneshot = PruningSchedule(whole=whole, targets=(half,), warmup_ratio=0.1, pruning_end=0.7, shape="oneshot")
    assert (oneshot.widths_at(0.09), oneshot.widths_at(0.1)) == (whole, half)
