"""Magnitude pruning: the dimensions with the largest weights stay in a narrower model."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from stages.models.anatomy import ModelParts
from stages.pruning.compact import Axis, map_axes


def sum_magnitudes(model: PreTrainedModel) -> dict[Axis, Tensor]:
    """Axis -> the squared weights that write and read each of its dimensions, (count,), float64.

    Σ over matrices W with that axis of ‖W_i‖² / ‖W‖², W_i being the row or column of dimension i. Source: ours; the
    share of each matrix's own norm, so that the word embedding does not outweigh the layers by its number of rows.
    """
    layout, scores = map_axes(model), {}
    for name, weight in model.named_parameters():
        if weight.ndim != 2:
            continue
        square = weight.detach().double().square()
        for dimension, axis in enumerate(layout[name]):
            if axis:
                share = square.sum(1 - dimension) / square.sum()
                scores[axis] = scores.get(axis, 0) + share
    return scores


def select_largest(model: PreTrainedModel, width: int, neurons: int) -> dict[Axis, Tensor]:
    """Indices that stay, rising, for `compact_model`.

    Args:
        width: of the residual stream; as many dimensions stay in the task's head, and in all attention heads together.
        neurons: of each layer's feed-forward.
    """
    parts, kept = ModelParts(model), {}
    for axis, scores in sum_magnitudes(model).items():
        if axis[0] == "ffn":
            kept[axis] = _select_top(scores, neurons)
        elif axis[0] in ("qk", "vo"):
            kept[axis] = _select_top_of_each_head(scores, parts.heads, width // parts.heads)
        elif axis[0] != "embedding":
            kept[axis] = _select_top(scores, width)
    return kept


def _select_top(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def _select_top_of_each_head(scores: Tensor, heads: int, count: int) -> Tensor:
    """The same number of each head's dimensions."""
    size = len(scores) // heads
    return torch.cat([_select_top(part, count) + head * size for head, part in enumerate(scores.split(size))])
