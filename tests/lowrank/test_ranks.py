"""Rank allocation: the budget, the order in which ranks are handed out, what cannot be allocated."""

import numpy as np
import pytest

from stages.errors import BadInput
from stages.lowrank.ranks import Matrix, allocate_ranks


@pytest.mark.parametrize("rule", ["ratio", "uniform", "global", "speed"])
@pytest.mark.parametrize("budget", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("block", [1, 8])
def test_budget_is_met_within_one_percent_from_below(rule: str, budget: float, block: int):
    draw = np.random.default_rng(0)
    shapes = [(384, 384)] * 4 + [(1536, 384), (384, 1536)]
    matrices = []
    for i, (outputs, inputs) in enumerate(shapes * 6):
        energy = np.sort(draw.exponential(size=384) * np.exp(-np.arange(384) / draw.uniform(20, 200)))[::-1]
        use = 1 / 16 if i > 30 else 1.0
        matrices.append(
            Matrix(name=str(i), outputs=outputs, inputs=inputs, energy=list(energy / energy.sum()), output_use=use)
        )
    whole = int(budget * sum(m.dense for m in matrices))
    ranks = allocate_ranks(matrices, whole, rule, block)
    spent = sum(m.size(ranks[m.name]) for m in matrices)
    assert 0.99 * whole <= spent <= whole
    assert all(r is None or m.size(r) < m.dense for m, r in zip(matrices, ranks.values(), strict=True))
    if rule == "uniform":
        factorized = [r for r in ranks.values() if r]
        assert max(factorized) - min(factorized) <= block or None in ranks.values()


def test_global_is_the_greedy_choice():
    """Against an exhaustive search over all ranks of two small matrices of equal shape."""
    energies = [[0.5, 0.3, 0.15, 0.05], [0.9, 0.08, 0.015, 0.005]]
    matrices = [Matrix(name=str(i), outputs=4, inputs=100, energy=e) for i, e in enumerate(energies)]
    budget = 4 * 104
    ranks = allocate_ranks(matrices, budget, "global", 1)
    best = max(
        ((i, j) for i in range(1, 4) for j in range(1, 4) if (i + j) * 104 <= budget),
        key=lambda r: sum(energies[0][: r[0]]) + sum(energies[1][: r[1]]),
    )
    assert tuple(ranks.values()) == best


def test_speed_stores_as_much_and_multiplies_less():
    draw = np.random.default_rng(0)
    energies = [np.sort(draw.exponential(size=64))[::-1] for _ in range(8)]
    matrices = [
        Matrix(
            name=str(i),
            outputs=64,
            inputs=64,
            energy=list(energy / energy.sum()),
            output_use=1 / 16 if i > 5 else 1.0,
        )
        for i, energy in enumerate(energies)
    ]

    def count_multiplications(rule: str) -> float:
        ranks = allocate_ranks(matrices, 4 * 64 * 64, rule, 1)
        return sum(m.size(ranks[m.name]) * m.output_use for m in matrices)

    assert count_multiplications("speed") < 0.9 * count_multiplications("global")


def test_budget_too_small_or_blocks_too_coarse_are_refused():
    matrix = Matrix(name="m", outputs=64, inputs=64, energy=[1 / 64] * 64)
    with pytest.raises(BadInput, match=r"factorize.budget leaves 100 .* factorize.multiple_of"):
        allocate_ranks([matrix], 100, "global", 8)
    with pytest.raises(BadInput, match=r"factorize.multiple_of 8 is too coarse"):
        allocate_ranks([matrix], 8 * 128 + 900, "global", 8)
