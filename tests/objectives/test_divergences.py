"""Every divergence against a loop written from its formula, in float64."""

import numpy as np
import pytest

from stages.objectives import AKL, JSD, KL, TVD, Objectives, Ranking, ReverseKL, SkewKL, SkewReverseKL
from tests.makers.logits import (
    DIVERGENCES,
    TEMPERATURE,
    average_rows,
    make_logits,
    make_row_batch,
    wrap_logits,
)
from tests.makers.references import kl_divergence, softmax


def compute_jsd(z_s: np.ndarray, z_t: np.ndarray, beta: float) -> float:
    p, q = softmax(z_t), softmax(z_s)
    m = beta * p + (1 - beta) * q
    return beta * kl_divergence(np.log(p), np.log(m)) + (1 - beta) * kl_divergence(np.log(q), np.log(m))


def compute_akl(z_s: np.ndarray, z_t: np.ndarray, mu: float) -> float:
    p, q = softmax(z_t), softmax(z_s)
    mass, gaps = 0.0, [0.0, 0.0]
    for c in sorted(range(len(p)), key=lambda c: -p[c]):
        gaps[int(mass >= mu)] += abs(p[c] - q[c])
        mass += p[c]
    return (gaps[0] * kl_divergence(z_t, z_s) + gaps[1] * kl_divergence(z_s, z_t)) / sum(gaps)


FORMULAS = {
    "kl": lambda s, t: kl_divergence(t, s),
    "reverse_kl": lambda s, t: kl_divergence(s, t),
    "jsd": lambda s, t: compute_jsd(s, t, 0.3),
    "skew_kl": lambda s, t: kl_divergence(t, np.log(0.2 * softmax(t) + 0.8 * softmax(s))),
    "skew_reverse_kl": lambda s, t: kl_divergence(s, np.log(0.8 * softmax(t) + 0.2 * softmax(s))),
    "tvd": lambda s, t: sum(abs(softmax(s) - softmax(t))) / 2,
    "akl": lambda s, t: compute_akl(s, t, 0.6),
}
"""Of a row's logits divided by the temperature; the settings are those of DIVERGENCES."""


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_equal_the_loop(name):
    term, formula = DIVERGENCES[name], FORMULAS[name]
    student, teacher = make_logits()
    pairs = zip(student.numpy(), teacher.numpy(), strict=True)
    rows = [formula(s / TEMPERATURE, t / TEMPERATURE) for s, t in pairs]
    value = term(wrap_logits(student), wrap_logits(teacher), make_row_batch())
    assert value.item() == pytest.approx(TEMPERATURE**2 * average_rows(rows), rel=1e-9)
    assert name in Objectives.model_fields and type(term) in Objectives.model_fields[name].annotation.__args__


def test_jsd_ends_in_the_two_divergences():
    student, teacher = (wrap_logits(x) for x in make_logits())
    batch = make_row_batch()
    for end, beta, scale in ((KL, 1e-6, 1e6), (ReverseKL, 1 - 1e-6, 1e6)):
        expected = end(temperature=1)(student, teacher, batch).item()
        assert scale * JSD(temperature=1, beta=beta)(student, teacher, batch).item() == pytest.approx(expected, 1e-4)


def test_a_dynamic_form_weighs_rows_by_the_classes_that_both_models_rank_first():
    student, teacher = make_logits()
    rows = []
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        shared = set(np.argsort(-s)[:4]) & set(np.argsort(-t)[:4])
        rows.append(len(shared) / 4 * kl_divergence(s, t))
    assert len(set(rows)) > 1
    value = ReverseKL(temperature=1, overlap=4)(wrap_logits(student), wrap_logits(teacher), make_row_batch())
    assert value.item() == pytest.approx(average_rows(rows), rel=1e-9)


@pytest.mark.parametrize("term", [JSD(), TVD(), AKL(), SkewKL(), SkewReverseKL(), Ranking()])
def test_a_regression_is_refused(term):
    with pytest.raises(ValueError, match=r"labels are numbers such as 0\.5; use `kl`"):
        term.learned_modules(None, None, [0.5, 1.0])
    assert term.learned_modules(None, None, [0, 1]) is None and term.learned_modules(None, None, []) is None
