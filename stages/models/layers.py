"""Which of the teacher's layers a student starts from (layer initialization), and the model that has only those.

Source: the choices of How to distill your BERT (Wang et al. 2023), sections 3 and 4.
"""

import copy
from typing import Literal

from transformers import PretrainedConfig, PreTrainedModel

from stages.errors import BadInput
from stages.models.anatomy import ModelParts

Layers = Literal["all", "first", "last", "every"] | list[int]


def choose_layers(layers: Layers, depth: int, teacher_depth: int) -> list[int]:
    """Numbers of the layers to keep, from 1.

    `every` takes the last layer of each of `depth` blocks, round(i·teacher_depth/depth): 2, 4, 6 for 3 of 6; 2, 5, 7,
    10, 12 for 5 of 12.

    Args:
        layers: the name of a choice, or the layers themselves.
        depth: how many; counts for `first`, `last` and `every` only.
        teacher_depth: how many the teacher has.

    Raises:
        BadInput: a layer that does not exist, or more layers than there are.
    """
    if isinstance(layers, list):
        if absent := [layer for layer in layers if not 1 <= layer <= teacher_depth]:
            verb = "does" if len(absent) == 1 else "do"
            raise BadInput(f"factorize.layers {absent} {verb} not exist: the teacher has layers 1 to {teacher_depth}")
        return layers
    if layers != "all" and depth > teacher_depth:
        raise BadInput(
            f"factorize.depth {depth} is more than the teacher's {teacher_depth} layers; use {teacher_depth} or less"
        )
    return {
        "all": list(range(1, teacher_depth + 1)),
        "first": list(range(1, depth + 1)),
        "last": list(range(teacher_depth - depth + 1, teacher_depth + 1)),
        "every": [round(i * teacher_depth / depth) for i in range(1, depth + 1)],
    }[layers]


def keep_layers(model: PreTrainedModel, layers: list[int]) -> PreTrainedModel:
    """A copy of a dense model with only these layers, counted from 1; everything outside the layers as it was.

    Raises:
        BadInput: a layer's position decides what it computes.
    """
    student = type(model)(_shorten_config(model.config, layers))
    path = ModelParts(model).layers_path + "."
    weights = {}
    for name, tensor in model.state_dict().items():
        number, _, rest = name.removeprefix(path).partition(".")
        if not name.startswith(path):
            weights[name] = tensor
        elif int(number) + 1 in layers:
            weights[f"{path}{layers.index(int(number) + 1)}.{rest}"] = tensor
    student.load_state_dict(weights, strict=True)
    if student.can_generate():
        student.generation_config = copy.deepcopy(model.generation_config)
    return student.eval()


def _shorten_config(config: PretrainedConfig, layers: list[int]) -> PretrainedConfig:
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise BadInput(
            f"factorize.layers {layers}: this model's attention scores are scaled by the layer's number "
            "(scale_attn_by_inverse_layer_idx), which a cut would change; set factorize.layers to all"
        )
    config = copy.deepcopy(config)
    config.num_hidden_layers = len(layers)
    if kinds := getattr(config, "layer_types", None):  # which layers have a sliding window
        config.layer_types = [kinds[layer - 1] for layer in layers]
    return config
