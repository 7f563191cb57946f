"""The distances whose gradients are written out: by finite differences, and in half precision."""

import pytest
import torch

from stages.objectives.distances import kl_divergence, squared_distance


def test_gradients_by_finite_differences():
    torch.manual_seed(0)
    s, t = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, 5, dtype=torch.float64)
    mask = torch.tensor([[1.0, 1, 0], [1, 1, 1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: kl_divergence(x, t), s)
    assert torch.autograd.gradcheck(lambda x: squared_distance(x, t, mask), s)
    assert torch.autograd.gradcheck(lambda x: squared_distance(x, t, mask, "none"), s)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_compared_in_float32(dtype):
    torch.manual_seed(0)
    s, t = torch.randn(4, 9, 64).to(dtype).requires_grad_(), torch.randn(4, 9, 64).to(dtype)
    mask = torch.ones(4, 9)
    for function in (lambda a, b: kl_divergence(a, b), lambda a, b: squared_distance(a, b, mask)):
        low, exact = function(s, t), function(s.detach().double(), t.double())
        assert low.dtype == torch.float32
        assert torch.allclose(low.double(), exact, rtol=1e-5)
        low.sum().backward()
        assert s.grad.dtype == dtype
        s.grad = None
