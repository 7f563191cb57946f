"""Which dimensions stay in a narrower model: those with the largest weights."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.models.anatomy import Parts
from stages.pruning.compact import Axis, axes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def magnitudes(model: "PreTrainedModel") -> dict[Axis, Tensor]:
    """Axis -> how much weight writes and reads each of its dimensions, (count,), float64.

    Σ over matrices W with that axis of ‖W_i‖² / ‖W‖², W_i being the row or column of dimension i. Source: ours; the
    share of each matrix's own norm, so that the word embedding does not outweigh the layers by its number of rows.
    """
    layout, scores = axes(model), {}
    for name, weight in model.named_parameters():
        if weight.ndim != 2:
            continue
        square = weight.detach().double().square()
        for dimension, axis in enumerate(layout[name]):
            if axis:
                share = square.sum(1 - dimension) / square.sum()
                scores[axis] = scores.get(axis, 0) + share
    return scores


def largest(model: "PreTrainedModel", width: int, neurons: int) -> dict[Axis, Tensor]:
    """Indices that stay, rising, for `compact`.

    Args:
        width: of the residual stream; as many dimensions stay in the task's head, and in all attention heads together.
        neurons: of each layer's feed-forward.
    """
    parts, kept = Parts(model), {}
    for axis, scores in magnitudes(model).items():
        if axis[0] == "ffn":
            kept[axis] = _top(scores, neurons)
        elif axis[0] in ("qk", "vo"):
            kept[axis] = _top_of_each(scores, parts.heads, width // parts.heads)
        elif axis[0] != "embedding":
            kept[axis] = _top(scores, width)
    return kept


def _top(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def _top_of_each(scores: Tensor, heads: int, count: int) -> Tensor:
    """The same number of each head's dimensions."""
    size = len(scores) // heads
    return torch.cat([_top(part, count) + head * size for head, part in enumerate(scores.split(size))])
