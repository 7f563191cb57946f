"""From a target in the settings to widths: met from below, refused where no model has them."""

import pytest

from stages.errors import BadInput
from stages.models.anatomy import ModelParts
from stages.pruning.compact import compact_model
from stages.pruning.masks import PruningMasks
from stages.pruning.schedule import Widths
from stages.pruning.targets import resolve_targets
from stages.settings import Target
from tests.makers.pruning import draw_scores, make_masked_lm


def test_targets_are_met():
    model = make_masked_lm("bert", layers=3, width=48, neurons=96)
    shares = resolve_targets([0.75, 0.5], model)
    assert shares == (Widths(residual=36, neurons=72), Widths(residual=24, neurons=48))
    assert resolve_targets([Target(hidden_size=36)], model) == (Widths(residual=36, neurons=72),)
    for target in (Target(budget=0.5), Target(budget=0.2), Target(params=int(0.6 * model.num_parameters()))):
        widths = resolve_targets([target], model)[0]
        masks = PruningMasks(whole := compact_model(model, {}))
        masks.remove_dimensions(draw_scores(masks), widths, 1)
        pruned = compact_model(whole, masks.kept_indices())
        share = ModelParts(pruned).count_layer_parameters() / ModelParts(model).count_layer_parameters()
        used = share / target.budget if target.budget else pruned.num_parameters() / target.params
        assert 0.98 < used <= 1, target
    wide, slim = resolve_targets([Target(hidden_size=24), Target(budget=0.22)], model)
    assert slim.residual < wide.residual and slim.neurons == wide.neurons, "removed neurons do not come back"


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0.5, 0.75], "0.75, a hidden size of 36, which is not between 0 and the 24 before it"),
        ([0.001], "a hidden size of 0"),
        ([Target(hidden_size=30)], "hidden_size 30 is no multiple of the model's 4 heads; use one, like 28"),
        ([Target(params=10)], "the narrowest model has"),
    ],
)
def test_targets_that_cannot_be_are_refused(targets: list[float | Target], message: str):
    with pytest.raises(BadInput, match=message):
        resolve_targets(targets, make_masked_lm("bert", layers=2, width=48, neurons=96))
