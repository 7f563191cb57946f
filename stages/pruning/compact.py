"""From a model and the dimensions that stay to a plain, narrower model of the same architecture.

Dimensions that can only be cut together are an axis: ("residual", 0), ("ffn", 3). One list of indices per axis cuts
every tensor that has it, so that the compact model computes what the whole one computes with the other dimensions
masked: layer norms over the survivors, attention scores at their old scale.
"""

import copy

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from stages.errors import BadInput
from stages.models.anatomy import ModelParts
from stages.models.families import Group

Axis = tuple[Group, int]
"""A group and its layer, from 1; 0 for what all layers share."""


def compact_model(model: PreTrainedModel, kept: dict[Axis, Tensor]) -> PreTrainedModel:
    """A narrower copy of a dense model.

    Args:
        kept: axis -> indices that stay, (count,); an axis that is not named stays whole. Heads stay all, each with as
            many dimensions: `qk` and `vo` index the matrices' outputs, head by head, and count as many as `residual`.

    Raises:
        BadInput: the family cannot be narrowed.
        ValueError: heads of different sizes.
        RuntimeError: counts that make no model (of `residual`, `head`, `qk` and `vo`, or of `ffn` in the layers).
    """
    parts, layout = ModelParts(model), map_axes(model)
    for (group, layer), indices in kept.items():
        if group in ("qk", "vo"):
            _require_equal_heads(indices, parts, f"{group} of layer {layer}")
    student = type(model)(_narrow_config(parts, kept))
    weights = {}
    for name, tensor in model.state_dict().items():
        for dimension, axis in enumerate(layout[name]):
            if axis in kept:
                tensor = tensor.index_select(dimension, kept[axis].to(tensor.device))
        weights[name] = tensor
    for layer in range(1, parts.depth + 1):
        if ("qk", layer) in kept:
            # the student divides by the root of its own, smaller head size
            scale = (len(kept["qk", layer]) / parts.width) ** 0.5
            path = f"{parts.layers_path}.{layer - 1}.{parts.anatomy.q}"
            weights |= {f"{path}.{end}": weights[f"{path}.{end}"] * scale for end in ("weight", "bias")}
    student.load_state_dict(weights, strict=True)
    return student.to(model.device).eval()


def map_axes(model: PreTrainedModel) -> dict[str, tuple[Axis | None, ...]]:
    """Name of every weight -> the axis of each of its dimensions; None where nothing is ever cut.

    Raises:
        BadInput: the family's row, or a weight in it, is missing.
    """
    parts = ModelParts(model)
    parts.require_narrowable()
    own_width = any(name.endswith("embeddings_project") for name, _ in model.named_modules())  # ELECTRA's embedding
    layout = {}
    for name, tensor in model.state_dict().items():
        module, layer = name.rpartition(".")[0], 0
        if module.startswith(parts.layers_path + "."):
            number, _, module = module.removeprefix(parts.layers_path + ".").partition(".")
            layer, groups = int(number) + 1, parts.anatomy.layer_weights.get(module)
        else:
            groups = parts.anatomy.outer_weights.get(module.removeprefix(parts.backbone_path + "."))
        if groups is None:
            raise BadInput(f"{type(model).__name__} cannot be narrowed: stages/models/families.py does not name {name}")
        layout[name] = tuple(_axis_of(group, layer, own_width) for group in groups[: tensor.ndim])
    return layout


def _axis_of(group: Group | None, layer: int, own_width: bool) -> Axis | None:
    if group is None:
        return None
    if group == "embedding" and not own_width:
        return ("residual", 0)
    return (group, layer if group in ("qk", "vo", "ffn") else 0)


def _require_equal_heads(indices: Tensor, parts: ModelParts, what: str) -> None:
    heads = (indices // (parts.width // parts.heads)).tolist()
    size = len(heads) // parts.heads
    if heads != [head for head in range(parts.heads) for _ in range(size)]:
        raise ValueError(
            f"{what}: {len(heads)} indices are not the same number of each of {parts.heads} heads, in order"
        )


def _narrow_config(parts: ModelParts, kept: dict[Axis, Tensor]) -> PretrainedConfig:
    config = copy.deepcopy(parts.config)
    whole = hasattr(config, "embedding_size") and config.embedding_size == config.hidden_size
    if ("residual", 0) in kept:
        config.hidden_size = len(kept["residual", 0])
    if ("embedding", 0) in kept:
        config.embedding_size = len(kept["embedding", 0])
    elif whole:
        config.embedding_size = config.hidden_size
    if ("ffn", 1) in kept:
        setattr(config, parts.anatomy.neurons, len(kept["ffn", 1]))
    return config
