"""Tiny masked language models to prune, and random choices of their dimensions."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

from stages.pruning.compact import Axis
from stages.pruning.masks import PruningMasks
from tests.makers.encoders import make_teacher


def make_masked_lm(family: str, layers: int = 2, width: int = 20, neurons: int = 23, **changes: Any) -> PreTrainedModel:
    """A random masked language model of four heads."""
    return AutoModelForMaskedLM.from_config(make_teacher(family, layers, width, neurons, **changes).config).eval()


def draw_scores(masks: PruningMasks, seed: int = 0) -> dict[Axis, Tensor]:
    """A random score for every dimension."""
    generator = torch.Generator().manual_seed(seed)
    return {axis: torch.rand(len(steps), generator=generator) for axis, steps in masks.removal_steps().items()}


def draw_indices(
    layers: int, size: tuple[int, int], target: tuple[int, int], *, heads: int = 4, task_head: bool
) -> dict[Axis, Tensor]:
    """Random dimensions that stay, each axis its own.

    Args:
        size, target: width and neurons, before and after.
        task_head: whether the head of the task has dimensions of its own.
    """
    (width, neurons), (target_width, target_neurons) = size, target

    def draw(of: int, count: int) -> Tensor:
        return torch.randperm(of)[:count].sort().values

    def draw_of_each_head() -> Tensor:
        head = width // heads
        return torch.cat([draw(head, target_width // heads) + i * head for i in range(heads)])

    indices: dict[Axis, Tensor] = {("residual", 0): draw(width, target_width)}
    if task_head:
        indices["head", 0] = draw(width, target_width)
    for layer in range(1, layers + 1):
        indices["qk", layer], indices["vo", layer] = draw_of_each_head(), draw_of_each_head()
        indices["ffn", layer] = draw(neurons, target_neurons)
    return indices
