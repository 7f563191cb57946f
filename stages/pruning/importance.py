"""Importance of each dimension: how much the loss depends on it."""

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.pruning.compact import Axis, map_axes
from stages.pruning.masks import PRUNED_GROUPS

Metric = Literal["platon", "sensitivity", "magnitude", "random"]


class Importance(nn.Module):
    """Scores of single weights, smoothed over the steps, added up along every axis.

    I = |w · ∂L/∂w|        Ī ← β₁ Ī + (1 − β₁) I        Ū ← β₂ Ū + (1 − β₂) |I − Ī|

    The score of a weight is Ī·Ū (`platon`), Ī (`sensitivity`) or |w| (`magnitude`); that of a dimension is the sum over
    the rows and columns of all matrices that have it. `random` draws.

    Source: PLATON (Zhang et al. 2022), eq. 4 to 8, with its own code's order (|I − Ī| with the new Ī); sums over rows
    and columns: HomoDistil (Liang et al. 2023).
    """

    def __init__(self, model: PreTrainedModel, metric: Metric, betas: tuple[float, float], seed: int) -> None:
        super().__init__()
        layout = map_axes(model)
        self.metric, self.betas, self.seed = metric, betas, seed
        self.weights = [(w, layout[name]) for name, w in model.named_parameters() if w.ndim == 2]
        self.weights = [(w, places) for w, places in self.weights if any(a and a[0] in PRUNED_GROUPS for a in places)]
        averages = {"platon": ("mean", "deviation"), "sensitivity": ("mean",)}.get(metric, ())
        for name in averages:
            for i, (weight, _) in enumerate(self.weights):
                self.register_buffer(f"{name}_{i}", torch.zeros_like(weight))

    @torch.no_grad()
    def accumulate(self) -> None:
        """Adds a step's gradients, before the optimizer uses them."""
        if self.metric not in ("platon", "sensitivity"):
            return
        weights = [weight.detach() for weight, _ in self.weights]
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w, _ in self.weights]
        sensitivity = torch._foreach_mul(weights, gradients)
        torch._foreach_abs_(sensitivity)
        means = self._list_buffers("mean")
        torch._foreach_lerp_(means, sensitivity, 1 - self.betas[0])
        if self.metric == "platon":
            torch._foreach_sub_(sensitivity, means)
            torch._foreach_abs_(sensitivity)
            torch._foreach_lerp_(self._list_buffers("deviation"), sensitivity, 1 - self.betas[1])

    @torch.no_grad()
    def compute_scores(self, step: int) -> dict[Axis, Tensor]:
        """Axis -> score of each dimension, (count,)."""
        generator = torch.Generator().manual_seed(self.seed + step)
        scores: dict[Axis, Tensor] = {}
        for i, (weight, places) in enumerate(self.weights):
            entries = None if self.metric == "random" else self._score_weights(i)
            for dimension, axis in enumerate(places):
                if axis and axis[0] in PRUNED_GROUPS:
                    if entries is not None:
                        scores[axis] = scores.get(axis, 0) + entries.sum(1 - dimension)
                    elif axis not in scores:
                        scores[axis] = torch.rand(weight.shape[dimension], generator=generator)
        return scores

    def _score_weights(self, i: int) -> Tensor:
        if self.metric == "magnitude":
            return self.weights[i][0].detach().abs()
        mean = getattr(self, f"mean_{i}")
        return mean * getattr(self, f"deviation_{i}") if self.metric == "platon" else mean

    def _list_buffers(self, name: str) -> list[Tensor]:
        return [getattr(self, f"{name}_{i}") for i in range(len(self.weights))]
