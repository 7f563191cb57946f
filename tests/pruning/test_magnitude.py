"""Magnitude pruning: the dimensions with the largest weights stay."""

import pytest
import torch

from stages.pruning.compact import map_axes
from stages.pruning.magnitude import select_largest
from tests.makers.encoders import FAMILIES, make_teacher
from tests.makers.pruning import draw_indices


@pytest.mark.parametrize("family", FAMILIES)
def test_the_dimensions_that_stay_have_the_largest_weights(family: str):
    """Dimensions whose weights are a tenth of the others' are removed, from each axis its own."""
    model = make_teacher(family, 2, 20, 23)
    expected = draw_indices(2, (20, 23), (12, 13), task_head=True)
    layout = map_axes(model)
    for name, weight in model.named_parameters():
        for side, axis in enumerate(layout[name]):
            if weight.ndim == 2 and axis in expected:
                scale = torch.full((weight.shape[side],), 0.1).index_fill(0, expected[axis], 1.0)
                weight.data *= scale.unsqueeze(1 - side)
    selected = select_largest(model, 12, 13)
    assert selected.keys() == expected.keys()
    assert [axis for axis in selected if not torch.equal(selected[axis], expected[axis])] == []
