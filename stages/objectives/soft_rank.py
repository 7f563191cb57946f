"""Soft ranks: ranks that a gradient flows through, of many rows at once and without a loop over them.

The rank of values z is the corner of the permutahedron (all orders of 1 … n as points) that lies in their direction;
the soft rank is the point of it that is nearest to z/ε. With a small ε that is the corner, and nothing moves it; with
a larger one it lies on a face, and moves with the values (Blondel et al. 2020).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stages.objectives.top_k import is_in, top_k

CHUNK_ENTRIES = 2**22
"""Means of runs that are compared at once: n² for each row."""


def union_of_top_k(student: Tensor, teacher: Tensor, k: int, exact: bool = True) -> tuple[Tensor, Tensor]:
    """The classes among the k most probable of either model, and which of them count.

    Shapes: (rows, classes) twice -> (rows, 2k) indices and bool. With `exact` a class that both have counts once.
    """
    ours, theirs = top_k(student, k), top_k(teacher, k)
    repeated = is_in(ours, theirs) & exact
    return torch.cat([theirs, ours], -1), torch.cat([torch.ones_like(repeated), ~repeated], -1)


def soft_rank(values: Tensor, real: Tensor) -> Tensor:
    """Ranks of a row's real values, the smallest lowest, as the permutahedron's point nearest to them.

    Shapes: values, already divided by ε, and real (rows, n), bool -> (rows, n); what is not real gets lower ranks than
    all others. The real ones' are off by a constant for each row: the number of those that are not.

    Source: Blondel et al. 2020, proposition 3: the projection of z on the permutahedron of w, both descending, is
    z − v, where v is the isotonic regression of z − w.
    """
    n = values.shape[-1]
    lowest = values.detach().masked_fill(~real, torch.inf).amin(-1, keepdim=True)
    values = torch.where(real, values, lowest - 2 * n)  # so far below that no real value is averaged with them
    z, order = values.sort(-1, descending=True)
    w = torch.arange(n, 0, -1, device=z.device, dtype=z.dtype)
    return (z - isotonic_regression(z - w)).gather(-1, order.argsort(-1))


def isotonic_regression(y: Tensor) -> Tensor:
    """The nearest rows to y (least squares) that never rise, (rows, n); with the exact gradient.

    They are y averaged over blocks of neighbors, and so is the gradient.
    """
    return _Isotonic.apply(y)


class _Isotonic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        blocks = torch.cat([_blocks(part) for part in y.split(max(1, CHUNK_ENTRIES // y.shape[-1] ** 2))])
        ctx.save_for_backward(blocks)
        return _block_means(y, blocks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _block_means(gradient, *ctx.saved_tensors)


def _blocks(y: Tensor) -> Tensor:
    """The block that each position belongs to, from 0; (rows, n).

    Source: v_i = min_{a ≤ i} max_{b ≥ i} mean(y_a … y_b), the min-max form (Robertson et al. 1988, section 1.4). A
    block's positions have the same run, so that their values are equal to the last bit.
    """
    sums = torch.nn.functional.pad((y - y.mean(-1, keepdim=True)).cumsum(-1), (1, 0))
    position = torch.arange(y.shape[-1], device=y.device)
    # `last` falls, so that a running maximum is one over all from there on
    first, last = position.unsqueeze(-1), position.flip(-1)
    means = (sums.flip(-1)[:, None, :-1] - sums[:, :-1, None]) / (last - first + 1)
    best = means.masked_fill_(last < first, -torch.inf).cummax(-1).values
    values = best.masked_fill_(last < first, torch.inf).amin(1).flip(-1)
    return torch.nn.functional.pad((values[:, 1:] != values[:, :-1]).cumsum(-1), (1, 0))


def _block_means(x: Tensor, blocks: Tensor) -> Tensor:
    sums, counts = (torch.zeros_like(x).scatter_add_(-1, blocks, part) for part in (x, torch.ones_like(x)))
    return (sums / counts.clamp_min(1)).gather(-1, blocks)
