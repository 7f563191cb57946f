"""The teacher, cut to a student's plan."""

from typing import TYPE_CHECKING

from stages.models.anatomy import Parts
from stages.models.layers import keep_layers
from stages.pruning.compact import compact
from stages.pruning.magnitude import largest
from stages.pruning.plan import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def cut(model: "PreTrainedModel", plan: Plan) -> "PreTrainedModel":
    """A copy with the plan's layers and widths, a plain model; the model itself where that is all of it."""
    parts = Parts(model)
    if len(plan.layers) < parts.depth:
        model = keep_layers(model, plan.layers)
    if (plan.width, plan.neurons) != (parts.width, parts.neurons):
        model = compact(model, largest(model, plan.width, plan.neurons))
    return model
