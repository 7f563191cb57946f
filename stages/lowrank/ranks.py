"""Rank allocation: the rank of each matrix, so that all together are just under the budget.

A matrix (out, in) of rank r stores r·(out + in) parameters, which pays only below out·in / (out + in); a matrix that
would pass that point stays dense.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from stages.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """One matrix, as far as the allocation needs to know it."""

    name: str
    outputs: int
    inputs: int
    energy: list[float]
    """Share of the output's energy of each rank, falling; they sum to 1."""
    output_use: float = 1.0
    """Share of the tokens whose output is read (output_use.py)."""

    @property
    def dense(self) -> int:
        return self.outputs * self.inputs

    def size(self, rank: int | None) -> int:
        """Stored parameters at this rank; None is dense."""
        return self.dense if rank is None else rank * (self.outputs + self.inputs)


def allocate_ranks(matrices: list[Matrix], budget: int, rule: str, multiple_of: int) -> dict[str, int | None]:
    """Ranks by name (None: dense) with Σ size <= budget, and within 1 % of it.

    Every matrix starts with one block of `multiple_of` ranks; further blocks are handed out in the rule's order,
    each where it fits, until none does.

    Args:
        budget: parameters that all matrices together may store.
        rule: `ratio`, `uniform`, `global` or `speed` (see `_order_blocks`).

    Raises:
        BadInput: the budget is too small for one block each, or the blocks are too coarse to come within 1 %.
    """
    if budget >= sum(m.dense for m in matrices):
        return {m.name: None for m in matrices}
    ranks: dict[str, int | None] = {m.name: multiple_of for m in matrices}
    left = budget - sum(m.size(multiple_of) for m in matrices)
    if left < 0:
        raise BadInput(
            f"factorize.budget leaves {budget:,} parameters for the matrices; rank {multiple_of} in each already takes "
            f"{budget - left:,}; raise factorize.budget or lower factorize.multiple_of"
        )
    by_name = {m.name: m for m in matrices}
    for name, rank in _order_blocks(matrices, rule, multiple_of):
        matrix, current = by_name[name], ranks[name]
        if current is None or rank != current + multiple_of:  # an earlier block of this matrix did not fit
            continue
        next_rank = rank if matrix.size(rank) < matrix.dense else None
        cost = matrix.size(next_rank) - matrix.size(current)
        if cost <= left:
            ranks[name], left = next_rank, left - cost
    if left > 0.01 * budget:
        raise BadInput(
            f"factorize.multiple_of {multiple_of} is too coarse: the budget is missed by {left / budget:.1%}; use 1"
        )
    return ranks


def _order_blocks(matrices: list[Matrix], rule: str, block: int) -> Iterable[tuple[str, int]]:
    """Blocks of ranks (name, rank with the block) in the order in which they are handed out."""
    blocks = [
        (matrix, rank)
        for matrix in matrices
        for rank in range(2 * block, min(matrix.outputs, matrix.inputs) + block, block)
    ]
    keys = {
        # every matrix the same share of its own size
        "ratio": lambda m, r: r * (m.outputs + m.inputs) / m.dense,
        # one rank for all
        "uniform": lambda m, r: r,
        # greedy: the block with the largest share of its matrix's energy per stored parameter
        "global": lambda m, r: -sum(m.energy[r - block : r]) / (m.outputs + m.inputs),
        # the same per multiplication that a text costs
        "speed": lambda m, r: -sum(m.energy[r - block : r]) / (m.outputs + m.inputs) / m.output_use,
    }
    return ((m.name, r) for m, r in sorted(blocks, key=lambda pair: keys[rule](*pair)))
