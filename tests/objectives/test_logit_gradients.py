"""Gradients of the objectives on logits: by finite differences, at the teacher, in half precision."""

import pytest
import torch
from torch import Tensor

from stages.objectives import AKL, KL, TVD, ReverseKL
from stages.objectives.inputs import Batch
from stages.objectives.row_chunks import CHUNK_ENTRIES
from tests.makers.logits import (
    EXAMPLES,
    LOGIT_TERMS,
    TEACHER_TERMS,
    make_logits,
    make_row_batch,
    make_single_batch,
    wrap_logits,
)


@pytest.mark.parametrize("term", LOGIT_TERMS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("entries", [1, 30, 72])
def test_gradients_by_finite_differences(term, entries, monkeypatch):
    """AKL's weights have none, and rows count by an overlap that does not move: small steps hold both still."""
    monkeypatch.setitem(CHUNK_ENTRIES, "cpu", entries)  # one row, two of 12 classes, all
    student, teacher = make_logits()
    batch = make_row_batch(torch.tensor([0, 3, 5, 1, 11, 2]))
    if isinstance(term, AKL):
        return check_akl_gradient(term, student, teacher, batch)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: term(wrap_logits(x), wrap_logits(teacher), batch), student, eps=1e-7)


def check_akl_gradient(term: AKL, student: Tensor, teacher: Tensor, batch: Batch) -> None:
    """It is that of the two divergences, mixed row by row in the proportion that the value implies."""
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(term(wrap_logits(student), wrap_logits(teacher), batch), student)
    parts = [c(temperature=term.temperature) for c in (KL, ReverseKL)]
    for i in range(len(student)):
        single = make_single_batch()
        row = wrap_logits(student[i : i + 1]), wrap_logits(teacher[i : i + 1])
        forward, back = (part(*row, single) for part in parts)
        share = ((term(*row, single) - back) / (forward - back)).item()
        slopes = [torch.autograd.grad(part(*row, single), student)[0][i] for part in parts]
        count = EXAMPLES.tolist().count(EXAMPLES[i])
        expected = (share * slopes[0] + (1 - share) * slopes[1]) / count / 3
        assert torch.allclose(gradient[i], expected, atol=1e-12)


@pytest.mark.parametrize("term", TEACHER_TERMS, ids=lambda t: type(t).__name__)
def test_zero_at_the_teacher(term):
    _, teacher = make_logits()
    student = teacher.clone().requires_grad_()
    value = term(wrap_logits(student), wrap_logits(teacher), make_row_batch())
    value.backward()
    assert abs(value.item()) < 1e-12
    assert student.grad.abs().max() < 1e-9 or isinstance(term, TVD)  # which has a kink at 0


@pytest.mark.parametrize("term", LOGIT_TERMS, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_costs_no_more_than_its_own_rounding(term, dtype):
    student, teacher = (x.to(dtype) for x in make_logits(classes=50))
    batch = make_row_batch(torch.arange(6))
    results = {}
    for kind in (dtype, torch.float64):
        leaf = student.to(kind).detach().requires_grad_()
        value = term(wrap_logits(leaf), wrap_logits(teacher.to(kind)), batch)
        value.backward()
        results[kind] = value, leaf.grad
    value, gradient = results[dtype]
    expected, exact = results[torch.float64]
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    error = (gradient.double() - exact).abs() / (exact.abs() + 1e-3 * exact.abs().max())
    assert error.max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("term", LOGIT_TERMS, ids=lambda t: type(t).__name__)
def test_a_teacher_of_inference_mode_and_a_student_without_gradient(term):
    student, teacher = (x.float() for x in make_logits())
    batch = make_row_batch(torch.arange(6))
    with torch.inference_mode():
        frozen = teacher.clone()
        without_gradient = term(wrap_logits(student), wrap_logits(frozen), batch).item()
    value = term(wrap_logits(student.requires_grad_()), wrap_logits(frozen), batch)
    value.backward()
    assert value.item() == pytest.approx(without_gradient, rel=1e-6) and student.grad.abs().sum() > 0
