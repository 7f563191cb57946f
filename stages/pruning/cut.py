"""The teacher, cut to a student's plan."""

from transformers import PreTrainedModel

from stages.models.anatomy import ModelParts
from stages.models.layers import keep_layers
from stages.pruning.compact import compact_model
from stages.pruning.magnitude import select_largest
from stages.pruning.plan import StudentPlan


def cut_to_plan(model: PreTrainedModel, plan: StudentPlan) -> PreTrainedModel:
    """A copy with the plan's layers and widths, a plain model; the model itself where that is all of it."""
    parts = ModelParts(model)
    if len(plan.layers) < parts.depth:
        model = keep_layers(model, plan.layers)
    if (plan.width, plan.neurons) != (parts.width, parts.neurons):
        model = compact_model(model, select_largest(model, plan.width, plan.neurons))
    return model
