"""The teacher, cut to a student's shape."""

from typing import TYPE_CHECKING

from stages.models.anatomy import Parts
from stages.models.layers import keep_layers
from stages.pruning.compact import compact
from stages.pruning.magnitude import largest
from stages.pruning.shape import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def cut(model: "PreTrainedModel", shape: Shape) -> "PreTrainedModel":
    """A copy with the shape's layers and widths, a plain model; the model itself where that is all of it."""
    parts = Parts(model)
    if len(shape.layers) < parts.depth:
        model = keep_layers(model, shape.layers)
    if (shape.width, shape.neurons) != (parts.width, parts.neurons):
        model = compact(model, largest(model, shape.width, shape.neurons))
    return model
