"""What the objectives are made of: attention scores, projections, and two distances with their gradients written out.

The distances take a student's tensor that gradients flow into and a teacher's that was made under inference mode, which
autograd cannot save for its backward pass: writing the gradient by hand saves one tensor, in place of the four or
five that the formula spelled in autograd would, and passes over memory half as often.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.objectives.inputs import Shape

Normalize = Literal["teacher", "none"]


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p‖q) over the last dimension, p = softmax(teacher), q = softmax(student), in float32 or better.

    Shapes: (..., classes) -> (...). The gradient with respect to the student's logits is q − p.
    """
    return _KLDivergence.apply(student, teacher)


def squared_distance(student: Tensor, teacher: Tensor, mask: Tensor, normalize: Normalize = "teacher") -> Tensor:
    """Σ_i m_i |s_i − t_i|² / Σ_i m_i |t_i|² for each example, over its real tokens i.

    Shapes: (batch, tokens, width), (batch, tokens, width), mask (batch, tokens) of 0 and 1 -> (batch,).
    With `normalize` "none" it is the mean over real entries instead.
    """
    mask = mask.to(torch.promote_types(student.dtype, torch.float32))
    sizes = _squared_norms(teacher) if normalize == "teacher" else teacher.shape[-1]
    scale = (sizes * mask).sum(1)
    return _SquaredDistance.apply(student, teacher, mask / scale.clamp_min(1e-12).unsqueeze(-1))


def split_heads(x: Tensor, count: int) -> Tensor:
    """Shapes: (batch, tokens, count · d) -> (batch, count, tokens, d)."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def visible_keys(mask: Tensor, shape: Shape, layer: int | None = None) -> Tensor:
    """1 where a query may attend to a key; 0 at padding, and in a decoder at later tokens and outside the window.

    Shapes: mask (batch, tokens) of 0 and 1 -> (batch, 1, tokens), for decoders (batch, tokens, tokens).

    Args:
        layer: the one whose sliding window counts; None: no window does.
    """
    if not shape.causal:
        return mask.unsqueeze(1)
    earlier = mask.new_ones(mask.shape[1], mask.shape[1]).tril()
    if layer is not None and (window := shape.windows.get(layer)):
        earlier = earlier.triu(1 - window)
    return mask.unsqueeze(1) * earlier


def attention_scores(q: Tensor, k: Tensor, visible: Tensor | None = None, scale: float | None = None) -> Tensor:
    """QKᵀ/√d, or QKᵀ · scale; with `visible`, the other pairs have the lowest value, so that a softmax leaves them out.

    Shapes: (batch, heads, tokens, d) twice, visible (batch, 1 or tokens, tokens) of 0 and 1 ->
    (batch, heads, tokens, tokens).
    """
    count, scale = q.shape[1], q.shape[-1] ** -0.5 if scale is None else scale
    q, k = q.flatten(0, 1), k.flatten(0, 1)
    bias = q.new_zeros(len(q), 1, q.shape[1])
    if visible is not None:
        bias = (1 - visible).mul(torch.finfo(q.dtype).min / 2).to(q.dtype).repeat_interleave(count, 0)
    # one product that scales and adds as it goes: a map is the largest tensor here, each pass over it counts
    return torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale).unflatten(0, (-1, count))


def normalize_vectors(x: Tensor) -> Tensor:
    """Vectors of the last dimension at length 1, in float32 or better."""
    return nn.functional.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def build_projections(student: Shape, teacher: Shape, names: Iterable[str]) -> nn.ModuleDict | None:
    """A learned map from the student's width to the teacher's for each aspect where they differ; None where none does.

    One map serves all layers (TinyBERT, Jiao et al. 2020, section 3.1), so that it cannot do a layer's work.
    """
    widths = {name: (student.widths[name], teacher.widths[name]) for name in names}
    maps = {name: nn.Linear(ours, theirs, bias=False) for name, (ours, theirs) in widths.items() if ours != theirs}
    return nn.ModuleDict(maps) if maps else None


def project(x: Tensor, maps: nn.Module | None, name: str) -> Tensor:
    """Through that aspect's learned map, where it has one."""
    return maps[name](x) if isinstance(maps, nn.ModuleDict) and name in maps else x


class _KLDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        wide = torch.promote_types(student.dtype, torch.float32)
        log_q, log_p = student.log_softmax(-1, dtype=wide), teacher.log_softmax(-1, dtype=wide)
        p = log_p.exp()
        value = torch.linalg.vecdot(p, log_p.sub_(log_q))
        ctx.save_for_backward(log_q.exp_().sub_(p))
        ctx.dtype = student.dtype
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return (difference * gradient.unsqueeze(-1)).to(ctx.dtype), None


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        difference = student.to(weight.dtype) - teacher
        ctx.save_for_backward(difference, weight)
        ctx.dtype = student.dtype
        return (_squared_norms(difference) * weight).sum(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        difference, weight = ctx.saved_tensors
        return (difference * (2 * weight * gradient.unsqueeze(-1)).unsqueeze(-1)).to(ctx.dtype), None, None


def _squared_norms(x: Tensor) -> Tensor:
    """|x_i|² over the last dimension, in one pass and without a squared copy."""
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32)).square()
