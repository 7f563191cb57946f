"""RLKD's ranking loss against a loop by scikit-learn, and the gradients of its two forms."""

import numpy as np
import pytest
import torch

from stages.objectives import Ranking
from stages.objectives.soft_rank import union_of_top_k
from tests.makers.logits import (
    PAPER_RANKING,
    average_rows,
    make_logits,
    make_row_batch,
    make_single_batch,
    wrap_logits,
)
from tests.makers.references import rank_softly


def measure_spearman_distance(
    s: np.ndarray, t: np.ndarray, k: int, exact: bool, relative: bool, softness: float
) -> float:
    tops = [np.argsort(-z)[:k].tolist() for z in (t, s)]
    tokens = sorted(set(tops[0] + tops[1])) if exact else tops[0] + tops[1]
    ranks = []
    for z in (s[tokens], t[tokens]):
        epsilon = softness * ((max(z) - min(z)) / (len(tokens) - 1) if relative else 1)
        ranks.append(rank_softly(z / epsilon))
    return 1 - np.corrcoef(*ranks)[0, 1]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(("k", "softness"), [(2, 1.3), (5, 0.5), (5, 2.0), (11, 1.0)])
def test_ranking_equals_the_loop_by_scikit_learn(exact, relative, k, softness):
    student, teacher = make_logits()
    pairs = zip(student.numpy(), teacher.numpy(), strict=True)
    rows = [measure_spearman_distance(s, t, k, exact, relative, softness) for s, t in pairs]
    union, epsilon = "exact" if exact else "concat", "relative" if relative else "fixed"
    term = Ranking(k=k, union=union, epsilon=epsilon, softness=softness)
    value = term(wrap_logits(student), wrap_logits(teacher), make_row_batch())
    assert value.item() == pytest.approx(average_rows(rows), rel=1e-9, abs=1e-12)


def test_the_exact_union_counts_shared_tokens_once():
    student, teacher = (torch.tensor([z]) for z in ([9.0, 8, 7, 0, 1, 2], [8.0, 9, 0, 1, 2, 7]))
    index, real = union_of_top_k(student, teacher, 3)
    assert sorted(index[real].tolist()) == [0, 1, 2, 5] and real.sum() == 4
    index, real = union_of_top_k(student, teacher, 3, exact=False)
    assert sorted(index[real].tolist()) == [0, 0, 1, 1, 2, 5]
    index, real = union_of_top_k(student, teacher, 10)  # fewer classes than k
    assert sorted(index[real].tolist()) == list(range(6))


def test_the_wrong_order_has_a_gradient_where_the_papers_form_has_none():
    """The first two of the student's logits are swapped, and all are further apart than twice ε = 1."""
    teacher = torch.tensor([[12.0, 8, 5, 1, -5, -20]])
    wrong = torch.tensor([[8.0, 12, 5, 1, -5, -20]])
    slopes = []
    for form in ({}, PAPER_RANKING, PAPER_RANKING | {"epsilon": "relative", "softness": 2.0}):
        student = wrong.clone().requires_grad_()
        value = Ranking(k=4, **form)(wrap_logits(student), wrap_logits(teacher), make_single_batch())
        assert value.item() > 0.05
        slopes.append(torch.autograd.grad(value, student)[0][0])
    ours, paper, relative = slopes
    assert ours[0] < -1e-3 and ours[1] > 1e-3 and ours[4:].abs().max() == 0
    assert relative[0] < -1e-3 and relative[1] > 1e-3
    assert paper.abs().max() < 1e-6


def test_flat_logits_make_no_nan():
    student = torch.zeros(1, 9, requires_grad=True)
    value = Ranking(k=3)(wrap_logits(student), wrap_logits(torch.randn(1, 9)), make_single_batch())
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()
