"""How much each dimension matters: what the loss would miss of it."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from stages.pruning.compact import Axis, axes
from stages.pruning.masks import CUT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Metric = Literal["platon", "sensitivity", "magnitude", "random"]


class Importance(nn.Module):
    """Scores of single weights, smoothed over the steps, added up along every axis.

    I = |w · ∂L/∂w|        Ī ← β₁ Ī + (1 − β₁) I        Ū ← β₂ Ū + (1 − β₂) |I − Ī|

    The score of a weight is Ī·Ū (`platon`), Ī (`sensitivity`) or |w| (`magnitude`); that of a dimension is the sum over
    the rows and columns of all matrices that have it. `random` draws.

    Source: PLATON (Zhang et al. 2022), eq. 4 to 8, with its own code's order (|I − Ī| with the new Ī); sums over rows
    and columns: HomoDistil (Liang et al. 2023).
    """

    def __init__(self, model: "PreTrainedModel", metric: Metric, betas: tuple[float, float], seed: int) -> None:
        super().__init__()
        layout = axes(model)
        self.metric, self.betas, self.seed = metric, betas, seed
        self.weights = [(w, layout[name]) for name, w in model.named_parameters() if w.ndim == 2]
        self.weights = [(w, places) for w, places in self.weights if any(a and a[0] in CUT for a in places)]
        kept = {"platon": ("mean", "deviation"), "sensitivity": ("mean",)}.get(metric, ())
        for name in kept:
            for i, (weight, _) in enumerate(self.weights):
                self.register_buffer(f"{name}_{i}", torch.zeros_like(weight))

    @torch.no_grad()
    def update(self) -> None:
        """Takes the gradients of a step in, before the optimizer does."""
        if self.metric not in ("platon", "sensitivity"):
            return
        weights = [weight.detach() for weight, _ in self.weights]
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w, _ in self.weights]
        found = torch._foreach_mul(weights, gradients)
        torch._foreach_abs_(found)
        means = self._all("mean")
        torch._foreach_lerp_(means, found, 1 - self.betas[0])
        if self.metric == "platon":
            torch._foreach_sub_(found, means)
            torch._foreach_abs_(found)
            torch._foreach_lerp_(self._all("deviation"), found, 1 - self.betas[1])

    @torch.no_grad()
    def scores(self, step: int) -> dict[Axis, Tensor]:
        """Axis -> score of each dimension, (count,)."""
        generator = torch.Generator().manual_seed(self.seed + step)
        found: dict[Axis, Tensor] = {}
        for i, (weight, places) in enumerate(self.weights):
            entries = None if self.metric == "random" else self._entries(i)
            for dimension, axis in enumerate(places):
                if axis and axis[0] in CUT:
                    if entries is not None:
                        found[axis] = found.get(axis, 0) + entries.sum(1 - dimension)
                    elif axis not in found:
                        found[axis] = torch.rand(weight.shape[dimension], generator=generator)
        return found

    def _entries(self, i: int) -> Tensor:
        if self.metric == "magnitude":
            return self.weights[i][0].detach().abs()
        mean = getattr(self, f"mean_{i}")
        return mean * getattr(self, f"deviation_{i}") if self.metric == "platon" else mean

    def _all(self, name: str) -> list[Tensor]:
        return [getattr(self, f"{name}_{i}") for i in range(len(self.weights))]
