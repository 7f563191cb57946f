"""Objectives on large vocabularies: against float64 loops written from their formulas, in chunks, in half precision."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.isotonic import isotonic_regression
from test_objectives import kl, softmax

from stages.distillation import rows
from stages.distillation.agreement import agreement, overlap, top
from stages.distillation.capture import Batch, Captured
from stages.distillation.objectives import (
    AKL,
    JSD,
    KL,
    TVD,
    Hard,
    LogitMSE,
    Objective,
    Objectives,
    Ranking,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
)
from stages.distillation.ranks import isotonic, soft_rank, union

EXAMPLES = torch.tensor([0, 0, 0, 1, 2, 2])
"""The example that each row of logits belongs to."""
PAPER = {"union": "concat", "epsilon": "fixed", "softness": 1.0}
T = 1.5


def said(logits: torch.Tensor) -> Captured:
    return Captured(SimpleNamespace(shape=None), logits, {})


def batch(labels: torch.Tensor | None = None) -> Batch:
    return Batch(mask=torch.ones(3, 4), labels=labels, rows=EXAMPLES)


def logits(classes: int = 12, seed: int = 0, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a student that is not far from its teacher, (6, classes) in float64."""
    draw = torch.Generator().manual_seed(seed)
    teacher = scale * torch.randn(6, classes, generator=draw, dtype=torch.float64)
    return teacher + torch.randn(6, classes, generator=draw, dtype=torch.float64), teacher


def mean(values: list[float]) -> float:
    """Over examples of the mean over their rows."""
    return float(np.mean([np.mean([v for v, e in zip(values, EXAMPLES, strict=True) if e == b]) for b in range(3)]))


def jsd(z_s: np.ndarray, z_t: np.ndarray, beta: float) -> float:
    p, q = softmax(z_t), softmax(z_s)
    m = beta * p + (1 - beta) * q
    return beta * kl(np.log(p), np.log(m)) + (1 - beta) * kl(np.log(q), np.log(m))


def akl(z_s: np.ndarray, z_t: np.ndarray, mu: float) -> float:
    p, q = softmax(z_t), softmax(z_s)
    mass, gaps = 0.0, [0.0, 0.0]
    for c in sorted(range(len(p)), key=lambda c: -p[c]):
        gaps[int(mass >= mu)] += abs(p[c] - q[c])
        mass += p[c]
    return (gaps[0] * kl(z_t, z_s) + gaps[1] * kl(z_s, z_t)) / sum(gaps)


FORMULAS = {
    "kl": (KL(temperature=T), lambda s, t: kl(t, s)),
    "reverse_kl": (ReverseKL(temperature=T), lambda s, t: kl(s, t)),
    "jsd": (JSD(temperature=T, beta=0.3), lambda s, t: jsd(s, t, 0.3)),
    "skew_kl": (
        SkewKL(temperature=T, alpha=0.2),
        lambda s, t: kl(t, np.log(0.2 * softmax(t) + 0.8 * softmax(s))),
    ),
    "skew_reverse_kl": (
        SkewReverseKL(temperature=T, alpha=0.2),
        lambda s, t: kl(s, np.log(0.8 * softmax(t) + 0.2 * softmax(s))),
    ),
    "tvd": (TVD(temperature=T), lambda s, t: sum(abs(softmax(s) - softmax(t))) / 2),
    "akl": (AKL(temperature=T, mu=0.6), lambda s, t: akl(s, t, 0.6)),
}
TERMS: list[Objective] = [term for term, _ in FORMULAS.values()]
TERMS += [LogitMSE(), KL(overlap=3), Ranking(k=3), Ranking(k=3, **PAPER)]


@pytest.mark.parametrize("name", FORMULAS)
def test_divergences_equal_the_loop(name):
    term, formula = FORMULAS[name]
    student, teacher = logits()
    each = [formula(s.numpy() / T, t.numpy() / T) for s, t in zip(student, teacher, strict=True)]
    assert term(said(student), said(teacher), batch()).item() == pytest.approx(T**2 * mean(each), rel=1e-9)
    assert name in Objectives.model_fields and type(term) in Objectives.model_fields[name].annotation.__args__


def test_jsd_ends_in_the_two_divergences():
    student, teacher = (said(x) for x in logits())
    for end, beta, scale in ((KL, 1e-6, 1e6), (ReverseKL, 1 - 1e-6, 1e6)):
        expected = end(temperature=1)(student, teacher, batch()).item()
        assert scale * JSD(temperature=1, beta=beta)(student, teacher, batch()).item() == pytest.approx(expected, 1e-4)


def test_a_dynamic_form_counts_rows_by_what_both_models_have_on_top():
    student, teacher = logits()
    each = []
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        shared = set(np.argsort(-s)[:4]) & set(np.argsort(-t)[:4])
        each.append(len(shared) / 4 * kl(s, t))
    assert len(set(each)) > 1
    value = ReverseKL(temperature=1, overlap=4)(said(student), said(teacher), batch())
    assert value.item() == pytest.approx(mean(each), rel=1e-9)


def hard_and_soft_rank(z: np.ndarray) -> np.ndarray:
    """The nearest point of the permutahedron of 1 … n, by scikit-learn."""
    order = np.argsort(-z, kind="stable")
    w = np.arange(len(z), 0, -1)
    found = np.empty(len(z))
    found[order] = z[order] - isotonic_regression(z[order] - w, increasing=False)
    return found


def spearman_distance(s: np.ndarray, t: np.ndarray, k: int, exact: bool, relative: bool, softness: float) -> float:
    tops = [np.argsort(-z)[:k].tolist() for z in (t, s)]
    tokens = sorted(set(tops[0] + tops[1])) if exact else tops[0] + tops[1]
    ranks = []
    for z in (s[tokens], t[tokens]):
        epsilon = softness * ((max(z) - min(z)) / (len(tokens) - 1) if relative else 1)
        ranks.append(hard_and_soft_rank(z / epsilon))
    return 1 - np.corrcoef(*ranks)[0, 1]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(("k", "softness"), [(2, 1.3), (5, 0.5), (5, 2.0), (11, 1.0)])
def test_ranking_equals_the_loop_by_scikit_learn(exact, relative, k, softness):
    student, teacher = logits()
    pairs = zip(student.numpy(), teacher.numpy(), strict=True)
    each = [spearman_distance(s, t, k, exact, relative, softness) for s, t in pairs]
    term = Ranking(
        k=k, union="exact" if exact else "concat", epsilon="relative" if relative else "fixed", softness=softness
    )
    assert term(said(student), said(teacher), batch()).item() == pytest.approx(mean(each), rel=1e-9, abs=1e-12)


def test_the_exact_union_counts_shared_tokens_once():
    student, teacher = (torch.tensor([z]) for z in ([9.0, 8, 7, 0, 1, 2], [8.0, 9, 0, 1, 2, 7]))
    index, real = union(student, teacher, 3)
    assert sorted(index[real].tolist()) == [0, 1, 2, 5] and real.sum() == 4
    index, real = union(student, teacher, 3, exact=False)
    assert sorted(index[real].tolist()) == [0, 0, 1, 1, 2, 5]
    index, real = union(student, teacher, 10)  # fewer classes than k
    assert sorted(index[real].tolist()) == list(range(6))


def test_isotonic_regression_is_scikit_learns():
    draw = np.random.default_rng(0)
    for n in (1, 2, 7, 60):
        y = draw.normal(size=(40, n)) + 0.1 * draw.choice([-n, 0, n], (40, 1)) * np.linspace(0, 1, n)
        y[:10] = y[:10].round()  # ties
        expected = [isotonic_regression(row, increasing=False) for row in y]
        assert isotonic(torch.tensor(y)).numpy() == pytest.approx(np.array(expected), abs=1e-9)
        low = isotonic(torch.tensor(y, dtype=torch.float32)).numpy()
        assert low == pytest.approx(np.array(expected), abs=1e-4)


def test_soft_ranks_of_rows_of_different_size():
    draw = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 10.0):
        z = scale * torch.randn(50, 8, generator=draw, dtype=torch.float64)
        real = torch.rand(50, 8, generator=draw) < 0.7
        real[:, 0] = True
        found = soft_rank(z, real)
        for row, ours, counts in zip(z, found, real, strict=True):
            expected = hard_and_soft_rank(row[counts].numpy())
            assert (ours[counts] - (~counts).sum()).numpy() == pytest.approx(expected, abs=1e-9)
            assert counts.all() or ours[~counts].max() < ours[counts].min()


def test_soft_ranks_gradient_by_finite_differences():
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(20, 6, generator=draw, dtype=torch.float64, requires_grad=True)
    real = torch.rand(20, 6, generator=draw) < 0.8
    assert torch.autograd.gradcheck(lambda x: soft_rank(2 * x, real) * real, z)
    assert torch.autograd.gradcheck(isotonic, z)


@pytest.mark.parametrize("term", [*TERMS, Hard()], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("entries", [1, 30, 72])
def test_gradients_by_finite_differences(term, entries, monkeypatch):
    """AKL's weights have none, and rows count by an overlap that does not move: both are held by small steps."""
    monkeypatch.setitem(rows.ENTRIES, "cpu", entries)  # one row, two of 12 classes, all
    student, teacher = logits()
    known = batch(torch.tensor([0, 3, 5, 1, 11, 2]))
    if isinstance(term, AKL):
        return held(term, student, teacher, known)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: term(said(x), said(teacher), known), student, eps=1e-7)


def held(term: AKL, student: torch.Tensor, teacher: torch.Tensor, known: Batch) -> None:
    """The gradient of the two divergences, mixed row by row in the proportion that the value tells."""
    student.requires_grad_()
    (found,) = torch.autograd.grad(term(said(student), said(teacher), known), student)
    parts = [c(temperature=term.temperature) for c in (KL, ReverseKL)]
    for i in range(len(student)):
        alone = Batch(mask=torch.ones(1, 1), labels=None)
        at = said(student[i : i + 1]), said(teacher[i : i + 1])
        forward, back = (part(*at, alone) for part in parts)
        share = ((term(*at, alone) - back) / (forward - back)).item()
        slopes = [torch.autograd.grad(part(*at, alone), student)[0][i] for part in parts]
        count = EXAMPLES.tolist().count(EXAMPLES[i])
        expected = (share * slopes[0] + (1 - share) * slopes[1]) / count / 3
        assert torch.allclose(found[i], expected, atol=1e-12)


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_zero_at_the_teacher(term):
    _, teacher = logits()
    student = teacher.clone().requires_grad_()
    value = term(said(student), said(teacher), batch())
    value.backward()
    assert abs(value.item()) < 1e-12
    assert student.grad.abs().max() < 1e-9 or isinstance(term, TVD)  # which has a kink there


@pytest.mark.parametrize("term", [*TERMS, Hard()], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_costs_no_more_than_its_own_rounding(term, dtype):
    student, teacher = (x.to(dtype) for x in logits(classes=50))
    known = batch(torch.arange(6))
    found = {}
    for kind in (dtype, torch.float64):
        leaf = student.to(kind).detach().requires_grad_()
        value = term(said(leaf), said(teacher.to(kind)), known)
        value.backward()
        found[kind] = value, leaf.grad
    value, gradient = found[dtype]
    expected, exact = found[torch.float64]
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    error = (gradient.double() - exact).abs() / (exact.abs() + 1e-3 * exact.abs().max())
    assert error.max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("term", [*TERMS, Hard()], ids=lambda t: type(t).__name__)
def test_a_teacher_of_inference_mode_and_a_student_without_gradient(term):
    student, teacher = (x.float() for x in logits())
    known = batch(torch.arange(6))
    with torch.inference_mode():
        frozen = teacher.clone()
        alone = term(said(student), said(frozen), known).item()
    value = term(said(student.requires_grad_()), said(frozen), known)
    value.backward()
    assert value.item() == pytest.approx(alone, rel=1e-6) and student.grad.abs().sum() > 0


def test_the_wrong_order_is_unlearned_where_the_papers_form_stands_still():
    """The first two of the student's logits are swapped, and all are further apart than twice ε = 1."""
    teacher = torch.tensor([[12.0, 8, 5, 1, -5, -20]])
    wrong = torch.tensor([[8.0, 12, 5, 1, -5, -20]])
    known = Batch(mask=torch.ones(1, 1), labels=None)
    slopes = []
    for form in ({}, PAPER, PAPER | {"epsilon": "relative", "softness": 2.0}):
        student = wrong.clone().requires_grad_()
        value = Ranking(k=4, **form)(said(student), said(teacher), known)
        assert value.item() > 0.05
        slopes.append(torch.autograd.grad(value, student)[0][0])
    ours, paper, relative = slopes
    assert ours[0] < -1e-3 and ours[1] > 1e-3 and ours[4:].abs().max() == 0
    assert relative[0] < -1e-3 and relative[1] > 1e-3
    assert paper.abs().max() < 1e-6


def test_flat_logits_make_no_nan():
    student = torch.zeros(1, 9, requires_grad=True)
    value = Ranking(k=3)(said(student), said(torch.randn(1, 9)), Batch(mask=torch.ones(1, 1), labels=None))
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize("term", [JSD(), TVD(), AKL(), SkewKL(), SkewReverseKL(), Ranking()])
def test_a_regression_is_refused(term):
    with pytest.raises(ValueError, match=r"labels are numbers such as 0\.5; use `kl`"):
        term.learned(None, None, [0.5, 1.0])
    assert term.learned(None, None, [0, 1]) is None and term.learned(None, None, []) is None


def test_agreement_equals_the_slow_loop():
    student, teacher = logits(classes=30, scale=4.0)
    found = agreement(student, teacher)
    for row, (s, t) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        ours, theirs = (sorted(range(30), key=lambda c, z=z: -z[c]) for z in (s, t))
        for k in (1, 2, 3, 4, 5):
            assert found[f"cr@{k}"][row] == (ours[:k] == theirs[:k])
        for k in (3, 5, 10, 20):
            assert found[f"mor@{k}"][row].item() == pytest.approx(len(set(ours[:k]) & set(theirs[:k])) / k)
    assert found["mor@5"].tolist() == overlap(student, teacher, 5).tolist()
    assert len(set(found["mor@10"].tolist())) > 1 and 0 < found["cr@1"].mean() < 1
    assert set(agreement(student[:, :4], teacher[:, :4])) == {"cr@1", "cr@2", "cr@3", "cr@4", "mor@3"}


@pytest.mark.parametrize("classes", [4095, 4096, 5003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_top_of_a_large_vocabulary(classes, dtype):
    draw = torch.Generator().manual_seed(0)
    found = torch.randn(30, classes, generator=draw)
    found[:10] += torch.linspace(0, 9, classes)  # the best are neighbors, and among the last
    found[10:20, 100:103] = 50.0
    found = found.to(dtype)
    for k in (1, 10, 100):
        assert torch.equal(found.gather(-1, top(found, k)), found.topk(k).values)
        assert all(len(set(row)) == k for row in top(found, k).tolist())


def peak(function) -> int:
    """Most bytes that were held at once beyond those at the start, by PyTorch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        function()
    held = highest = 0
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


@pytest.mark.parametrize("term", [*TERMS, Hard()], ids=lambda t: type(t).__name__)
def test_memory_is_the_gradient_and_a_few_rows(term, monkeypatch):
    """At a vocabulary of 20,000: the gradient that is kept and that which is handed on, in the student's precision."""
    monkeypatch.setitem(rows.ENTRIES, "cpu", 40_000)
    # PyTorch on a CPU adds up what was gathered in float32
    dtype = torch.float32 if isinstance(term, Ranking) else torch.bfloat16
    student, teacher = (torch.randn(200, 20_000, dtype=dtype) for _ in range(2))
    student.requires_grad_()
    known = Batch(mask=torch.ones(1, 1), labels=torch.arange(200), rows=torch.zeros(200, dtype=torch.long))
    one = student.nbytes
    assert peak(lambda: term(said(student), said(teacher), known).backward()) < 2.5 * one
    assert peak(lambda: student.detach().double().exp()) == 16 * student.numel(), "what is measured is what is meant"
