"""Random outputs of models for objectives to compare, and what the objectives know of their batch."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from stages.distillation.capture import CapturedOutputs
from stages.objectives.inputs import Batch, Shape

MASK = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
TOKEN_COUNTS = MASK.sum(1).int().tolist()
ASPECTS = ("hidden", "q", "k", "v", "up", "down")


def make_shape(depth: int, heads: int = 4, width: int = 8) -> Shape:
    """An encoder's, with every aspect of the same width."""
    return Shape(depth=depth, heads=heads, widths=dict.fromkeys(ASPECTS, width), scores="dot")


def make_captured(depth: int = 2, heads: int = 2, width: int = 6) -> CapturedOutputs:
    """A model's worth of random values at every aspect, padding filled with noise too."""
    values = {(n, i): torch.randn(3, 4, width, dtype=torch.float64) for n in ASPECTS for i in range(1, depth + 1)}
    values["hidden", 0] = torch.randn(3, 4, width, dtype=torch.float64)
    parts = SimpleNamespace(get_attention=lambda layer: None)
    return CapturedOutputs(parts, make_shape(depth, heads, width), torch.randn(3, 5, dtype=torch.float64), values)


def make_captured_pair(
    seed: int = 0, student: dict[str, int] | None = None, teacher: dict[str, int] | None = None
) -> tuple[CapturedOutputs, CapturedOutputs]:
    """A student's and a teacher's, drawn apart."""
    torch.manual_seed(seed)
    return make_captured(**student or {}), make_captured(**teacher or {})


def make_known_batch(**changes: Any) -> Batch:
    """What is known of the batch that all of these are of."""
    return Batch(**{"mask": MASK.double(), "labels": torch.tensor([0, 3, 1])} | changes)


def measure_relative_distance(student: Tensor, teacher: Tensor, counts: list[int]) -> float:
    """Mean over examples of Σ|s − t|² / Σ|t|² over their first tokens, as many as `counts` says, by a loop."""
    ratios = []
    for b, n in enumerate(counts):
        entries = [(i, c) for i in range(n) for c in range(student.shape[-1])]
        squares = sum(float((student[b, i, c] - teacher[b, i, c]) ** 2) for i, c in entries)
        ratios.append(squares / sum(float(teacher[b, i, c] ** 2) for i, c in entries))
    return sum(ratios) / len(ratios)
