"""The two distances that the objectives are made of, each with its gradient written out.

Both take a student's tensor that gradients flow into and a teacher's that was made under inference mode, which
autograd cannot keep for its backward pass: writing the gradient by hand keeps one tensor, in place of the four or
five that the formula spelled in autograd would, and passes over memory half as often.
"""

import torch
from torch import Tensor


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p‖q) over the last dimension, p = softmax(teacher), q = softmax(student), in float32 or better.

    Shapes: (..., classes) -> (...). The gradient of the student's logits is q − p.
    """
    return _Divergence.apply(student, teacher)


def squared_distance(student: Tensor, teacher: Tensor, mask: Tensor, normalize: str = "teacher") -> Tensor:
    """Σ_i m_i |s_i − t_i|² / Σ_i m_i |t_i|² for each example, over its real tokens i.

    Shapes: (batch, tokens, width), (batch, tokens, width), mask (batch, tokens) of 0 and 1 -> (batch,).
    With `normalize` "none" it is the mean over real entries instead.
    """
    mask = mask.to(torch.promote_types(student.dtype, torch.float32))
    sizes = _row_norms(teacher) if normalize == "teacher" else teacher.shape[-1]
    scale = (sizes * mask).sum(1)
    return _SquaredDistance.apply(student, teacher, mask / scale.clamp_min(1e-12).unsqueeze(-1))


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor) -> Tensor:
        wide = torch.promote_types(student.dtype, torch.float32)
        log_q, log_p = student.log_softmax(-1, dtype=wide), teacher.log_softmax(-1, dtype=wide)
        p = log_p.exp()
        value = torch.linalg.vecdot(p, log_p.sub_(log_q))
        ctx.save_for_backward(log_q.exp_().sub_(p))
        ctx.dtype = student.dtype
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return (difference * gradient.unsqueeze(-1)).to(ctx.dtype), None


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        difference = student.to(weight.dtype) - teacher
        ctx.save_for_backward(difference, weight)
        ctx.dtype = student.dtype
        return (_row_norms(difference) * weight).sum(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        difference, weight = ctx.saved_tensors
        return (difference * (2 * weight * gradient.unsqueeze(-1)).unsqueeze(-1)).to(ctx.dtype), None, None


def _row_norms(x: Tensor) -> Tensor:
    """|x_i|² over the last dimension, in one pass and without a squared copy."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32)).square()
