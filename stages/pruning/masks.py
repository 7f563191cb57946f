"""Which dimensions of a model are still there while it is being pruned."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stages.models.anatomy import Parts
from stages.pruning.compact import Axis, axes
from stages.pruning.schedule import Widths

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CUT = ("residual", "head", "qk", "vo", "ffn")
"""Groups that are pruned; an embedding with a width of its own stays whole."""


class Masks(nn.Module):
    """For every axis the step at which each of its dimensions went; 0 for those that are there.

    A dimension that has gone is 0 in every weight that has it, so that nothing reads or writes it; layer norms take
    their statistics over the survivors. The whole model then computes what `compact` will.
    """

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        parts, layout = Parts(model), axes(model)
        self.heads = parts.heads
        self.weights: list[tuple[Tensor, int, str]] = []
        self.norms: list[tuple[MaskedNorm, str]] = []
        for name, weight in model.named_parameters():
            for dimension, axis in enumerate(layout[name]):
                if axis and axis[0] in CUT:
                    self.weights.append((weight, dimension, _name(axis)))
                    if not hasattr(self, _name(axis)):
                        self.register_buffer(_name(axis), torch.zeros(weight.shape[dimension], dtype=torch.int64))
        for name, module in model.named_modules():
            if isinstance(module, nn.LayerNorm) and (axis := layout[f"{name}.weight"][0]) and axis[0] in CUT:
                module.__class__ = MaskedNorm
                self.norms.append((module, _name(axis)))

    def gone(self) -> dict[Axis, Tensor]:
        """Axis -> the step at which each dimension went, (count,), 0 for one that is there."""
        return {(name.split("_")[0], int(name.split("_")[1])): steps for name, steps in self.named_buffers()}

    def kept(self) -> dict[Axis, Tensor]:
        """Axis -> indices of the dimensions that are there, rising, as `compact` takes them."""
        return {axis: (steps == 0).nonzero()[:, 0] for axis, steps in self.gone().items()}

    @torch.no_grad()
    def cut(self, scores: dict[Axis, Tensor], widths: Widths, step: int) -> None:
        """Lets the dimensions of the lowest scores go until each axis has its width; what is gone stays gone.

        Args:
            scores: axis -> importance of each dimension.
        """
        for axis, gone in self.gone().items():
            rows = self.heads if axis[0] in ("qk", "vo") else 1  # as many dimensions of each head
            here = scores[axis].to(gone.device).masked_fill(gone > 0, -torch.inf).view(rows, -1)
            best = here.topk(-(-widths.of(axis[0]) // rows), dim=1).indices
            stays = torch.zeros_like(here, dtype=torch.bool).scatter_(1, best, True).flatten()
            gone[~stays & (gone == 0)] = step
        self.apply_masks()

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Puts 0 where a dimension is gone; after every optimizer step, whose momentum knows no masks."""
        there = {name: (steps == 0) for name, steps in self.named_buffers()}
        for weight, dimension, name in self.weights:
            weight.mul_(there[name].to(weight.dtype).view([-1 if d == dimension else 1 for d in range(weight.ndim)]))

    def refresh(self) -> None:
        """Tells the layer norms what is there; waits for the device, so only after a cut or a checkpoint."""
        there = {name: (steps == 0) for name, steps in self.named_buffers()}
        shares = {name: float(there[name].float().mean()) for name in {name for _, name in self.norms}}
        for norm, name in self.norms:
            norm.there, norm.share = there[name], shares[name]


class MaskedNorm(nn.LayerNorm):
    """A layer norm over the dimensions that are there.

    The others are set to the mean μ of those that are, whose variance over all d dimensions is then n/d of what it is
    over the n survivors; ε and the output are scaled to that, so that the fused layer norm does the work:

    (x − μ)/√(σ² + ε) = √(n/d) · LN(x', ε n/d)

    Source: ours.
    """

    there: Tensor | None = None
    share: float = 1.0
    """n/d"""

    def forward(self, x: Tensor) -> Tensor:
        if self.there is None or self.share == 1.0:
            return super().forward(x)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = (x * self.there).mean(-1, keepdim=True) / self.share
        x = torch.where(self.there, x, mean)
        weight = self.weight * self.share**0.5
        return nn.functional.layer_norm(x, self.normalized_shape, weight, self.bias, self.eps * self.share)


def _name(axis: Axis) -> str:
    return f"{axis[0]}_{axis[1]}"
