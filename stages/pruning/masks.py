"""Which dimensions of a model remain while it is being pruned."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.models.anatomy import ModelParts
from stages.pruning.compact import Axis, map_axes
from stages.pruning.schedule import Widths

PRUNED_GROUPS = ("residual", "head", "qk", "vo", "ffn")
"""An embedding with a width of its own stays whole."""


class PruningMasks(nn.Module):
    """For every axis the step at which each of its dimensions was removed; 0 for those that remain.

    A removed dimension is 0 in every weight that has it, so that nothing reads or writes it; layer norms take
    their statistics over the remaining ones. The whole model then computes the same as its `compact_model`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        parts, layout = ModelParts(model), map_axes(model)
        self.heads = parts.heads
        self.weights: list[tuple[Tensor, int, str]] = []
        self.norms: list[tuple[MaskedNorm, str]] = []
        for name, weight in model.named_parameters():
            for dimension, axis in enumerate(layout[name]):
                if axis and axis[0] in PRUNED_GROUPS:
                    self.weights.append((weight, dimension, _buffer_name(axis)))
                    if not hasattr(self, _buffer_name(axis)):
                        self.register_buffer(
                            _buffer_name(axis), torch.zeros(weight.shape[dimension], dtype=torch.int64)
                        )
        for name, module in model.named_modules():
            if isinstance(module, nn.LayerNorm) and (axis := layout[f"{name}.weight"][0]) and axis[0] in PRUNED_GROUPS:
                module.__class__ = MaskedNorm
                self.norms.append((module, _buffer_name(axis)))

    def removal_steps(self) -> dict[Axis, Tensor]:
        """Axis -> the step at which each dimension was removed, (count,), 0 for one that remains."""
        return {(name.split("_")[0], int(name.split("_")[1])): steps for name, steps in self.named_buffers()}

    def kept_indices(self) -> dict[Axis, Tensor]:
        """Axis -> indices of the remaining dimensions, rising, as `compact_model` takes them."""
        return {axis: (steps == 0).nonzero()[:, 0] for axis, steps in self.removal_steps().items()}

    @torch.no_grad()
    def remove_dimensions(self, scores: dict[Axis, Tensor], widths: Widths, step: int) -> None:
        """Removes the dimensions of the lowest scores until each axis has its width; removed ones never come back.

        Args:
            scores: axis -> importance of each dimension.
        """
        for axis, removed in self.removal_steps().items():
            rows = self.heads if axis[0] in ("qk", "vo") else 1  # as many dimensions of each head
            remaining = scores[axis].to(removed.device).masked_fill(removed > 0, -torch.inf).view(rows, -1)
            best = remaining.topk(-(-widths.of_group(axis[0]) // rows), dim=1).indices
            stays = torch.zeros_like(remaining, dtype=torch.bool).scatter_(1, best, True).flatten()
            removed[~stays & (removed == 0)] = step
        self.apply_masks()

    @torch.no_grad()
    def apply_masks(self) -> None:
        """Sets removed dimensions to 0; after every optimizer step, whose momentum knows no masks."""
        remains = {name: (steps == 0) for name, steps in self.named_buffers()}
        for weight, dimension, name in self.weights:
            weight.mul_(remains[name].to(weight.dtype).view([-1 if d == dimension else 1 for d in range(weight.ndim)]))

    def update_norms(self) -> None:
        """Sets the masks of the layer norms; waits for the device, so only after a removal or a checkpoint."""
        remains = {name: (steps == 0) for name, steps in self.named_buffers()}
        shares = {name: float(remains[name].float().mean()) for name in {name for _, name in self.norms}}
        for norm, name in self.norms:
            norm.remains, norm.share = remains[name], shares[name]


class MaskedNorm(nn.LayerNorm):
    """A layer norm over the remaining dimensions.

    The others are set to the mean μ of the remaining ones, whose variance over all d dimensions is then n/d of what it
    is over the n remaining ones; ε and the output are scaled to that, so that the fused layer norm does the work:

    (x − μ)/√(σ² + ε) = √(n/d) · LN(x', ε n/d)

    Source: ours.
    """

    remains: Tensor | None = None
    share: float = 1.0
    """n/d"""

    def forward(self, x: Tensor) -> Tensor:
        if self.remains is None or self.share == 1.0:
            return super().forward(x)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = (x * self.remains).mean(-1, keepdim=True) / self.share
        x = torch.where(self.remains, x, mean)
        weight = self.weight * self.share**0.5
        return nn.functional.layer_norm(x, self.normalized_shape, weight, self.bias, self.eps * self.share)


def _buffer_name(axis: Axis) -> str:
    return f"{axis[0]}_{axis[1]}"
