"""How many ranks each matrix gets, so that the whole lands just under the budget.

A matrix (out, in) of rank r stores r·(out + in) parameters, which pays only below out·in / (out + in); a matrix that
would pass that point stays dense.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from stages.settings import BadInput


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What the allocation needs to know of one matrix."""

    name: str
    outputs: int
    inputs: int
    energy: list[float]
    """What each rank contributes to the output, falling, as shares of 1."""
    reach: float = 1.0
    """Share of the tokens for which its output is read (reach.py)."""

    @property
    def dense(self) -> int:
        return self.outputs * self.inputs

    def size(self, rank: int | None) -> int:
        """Stored parameters at this rank; None is dense."""
        return self.dense if rank is None else rank * (self.outputs + self.inputs)


def allocate(matrices: list[Matrix], budget: int, rule: str, multiple_of: int) -> dict[str, int | None]:
    """Ranks by name (None: dense) with Σ size <= budget, and within 1 % of it.

    Every matrix starts with one block of `multiple_of` ranks; further blocks are handed out in the rule's order,
    each where it fits, until none does.

    Args:
        budget: parameters that all matrices together may store.
        rule: `ratio`, `uniform`, `global` or `speed` (methods: see `_order`).

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
    for name, rank in _order(matrices, rule, multiple_of):
        matrix, now = by_name[name], ranks[name]
        if now is None or rank != now + multiple_of:  # an earlier block of this matrix did not fit
            continue
        wanted = rank if matrix.size(rank) < matrix.dense else None
        cost = matrix.size(wanted) - matrix.size(now)
        if cost <= left:
            ranks[name], left = wanted, left - cost
    if left > 0.01 * budget:
        raise BadInput(
            f"factorize.multiple_of {multiple_of} is too coarse: the budget is missed by {left / budget:.1%}; use 1"
        )
    return ranks


def _order(matrices: list[Matrix], rule: str, block: int) -> Iterable[tuple[str, int]]:
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
        # greedy: the block that explains most of its matrix's output per stored parameter
        "global": lambda m, r: -sum(m.energy[r - block : r]) / (m.outputs + m.inputs),
        # the same per multiplication that a text costs
        "speed": lambda m, r: -sum(m.energy[r - block : r]) / (m.outputs + m.inputs) / m.reach,
    }
    return ((m.name, r) for m, r in sorted(blocks, key=lambda pair: keys[rule](*pair)))
