"""Logits over a large vocabulary, a few rows at a time.

In training 4,096 tokens of a vocabulary of 150,000 are 2.5 GB in float32, and a divergence written in autograd saves
several tensors of that size. Every row has a value of its own, so here only a few rows are in float32 at once: their
value and its gradient are computed together, in the forward pass, and the gradient alone is saved, in the student's
own precision.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ENTRIES = {"cpu": 2**18, "cuda": 2**24}
"""Logits of one model in a chunk: on a CPU what its cache holds, on a GPU what keeps it busy."""


def map_row_chunks(formula: Callable[..., Tensor], student: Tensor, *others: Tensor) -> Tensor:
    """`formula(student, *others)`, a few rows at a time; gradients flow into `student` alone.

    Shapes: student (rows, classes), others (rows, …) -> what the formula returns, (rows, …).

    Args:
        formula: differentiable in its first argument, each row's value of that row alone. It gets logits in float32
            or better, whatever the precision they come in, and integers as they are.
    """
    # a classifier's rows are few: autograd as it is costs less
    if torch.is_grad_enabled() and student.requires_grad and len(student) > _rows_per_chunk(student):
        return _ByChunks.apply(formula, student, *others)
    return torch.cat([formula(*chunk) for chunk in _chunks(student, *others)])


class _ByChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, formula: Callable[..., Tensor], student: Tensor, *others: Tensor) -> Tensor:
        gradient, values = torch.empty_like(student), []
        targets = gradient.split(_rows_per_chunk(student))
        for target, (ours, *theirs) in zip(targets, _chunks(student, *others), strict=True):
            with torch.enable_grad():
                leaf = ours.detach().requires_grad_()
                value = formula(leaf, *theirs)
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            target.copy_(slope)
            values.append(value.detach())
        ctx.save_for_backward(gradient)
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        unused = [None] * (len(ctx.needs_input_grad) - 2)
        return None, gradient * weights.to(gradient.dtype).unsqueeze(-1), *unused


def _rows_per_chunk(student: Tensor) -> int:
    return max(1, CHUNK_ENTRIES.get(student.device.type, CHUNK_ENTRIES["cuda"]) // student.shape[-1])


def _chunks(student: Tensor, *others: Tensor) -> Iterator[list[Tensor]]:
    wide = torch.promote_types(student.dtype, torch.float32)
    for chunk in zip(*(x.split(_rows_per_chunk(student)) for x in (student, *others)), strict=True):
        yield [x.to(wide) if x.is_floating_point() else x for x in chunk]
