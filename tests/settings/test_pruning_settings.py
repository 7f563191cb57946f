"""The block `prune`: combinations that cannot work are refused by name."""

from typing import Any

import pytest

from stages.settings import Prune


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruning_end": 0.05}, "pruning_end 0.05 must be above warmup_ratio 0.1"),
        ({"targets": [{"hidden_size": 8, "budget": 0.5}]}, "a target is one of"),
        ({"targets": []}, "at least 1"),
        (
            {"factorize": {"pretrained_student": "small"}},
            "factorize.pretrained_student small is for the stage `factorize`; pretrain.base says what is cut here",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Prune(**changes)
