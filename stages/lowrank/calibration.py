"""Statistics of each matrix on calibration text: the second moment of its input, the Fisher information of its rows."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from stages.lowrank.decompose import Statistics
from stages.models.anatomy import ModelParts


def collect_statistics(
    model: PreTrainedModel, names: list[str], batches: Iterable[dict[str, Tensor]], *, fisher: bool
) -> dict[str, Statistics]:
    """Statistics of the named matrices over the batches; padding never counts.

    Means and second moments are sums of x and x xᵀ over real tokens, divided by their number; the mean is given for
    matrices with a bias. Fisher information is that of the task's loss, per example: g = Σ_tokens δ xᵀ, then Σ_j g_ij²
    averaged over examples. Source: FWSVD (Hsu et al. 2022), eq. 5, with the empirical Fisher taken per example instead
    of per batch (ours: a batch's mean gradient hides what cancels).
    """
    collector = _Collector(fisher)
    handles = [h for name in names for h in collector.watch(name, model.get_submodule(name))]
    parts = ModelParts(model.eval())
    try:
        for batch in batches:
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            collector.begin_batch(batch["attention_mask"])
            if fisher:
                _sum_losses(model(**batch), batch["labels"], parts.anatomy.causal).backward()
                model.zero_grad(set_to_none=True)
            else:
                with torch.inference_mode():
                    parts.backbone(**{name: tensor for name, tensor in batch.items() if name != "labels"})
    finally:
        for handle in handles:
            handle.remove()
    return collector.statistics({name: model.get_submodule(name).bias is not None for name in names})


def _sum_losses(out: ModelOutput, labels: Tensor, causal: bool) -> Tensor:
    """The task's loss, summed over examples, so that each has its own gradient; a sequence's is the mean over labels.

    Shapes: labels (batch,), or (batch, tokens) with -100 where nothing is predicted; a scalar.
    """
    if labels.ndim == 1:
        return out.loss * len(labels)
    logits, targets = (out.logits[:, :-1], labels[:, 1:]) if causal else (out.logits, labels)
    losses = nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    return (losses.sum(1) / (targets >= 0).sum(1).clamp_min(1)).sum()


class _Collector:
    """Hooks that add up moments, batch by batch."""

    def __init__(self, fisher: bool) -> None:
        self.fisher = fisher
        self.moments: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        self.tokens = self.examples = 0
        self.mask = torch.zeros(0)
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def begin_batch(self, mask: Tensor) -> None:
        self.mask = mask.unsqueeze(-1)
        self.tokens += int(mask.sum())
        self.examples += len(mask)
        self.last = None

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        handles = [module.register_forward_hook(lambda m, args, out: self._add_input(name, args[0].detach()))]
        if self.fisher:
            handles.append(
                module.register_full_backward_hook(lambda m, g_in, g_out: self._add_gradient(name, g_out[0]))
            )
        return handles

    def _add_input(self, name: str, x: Tensor) -> None:
        if x.shape[:2] != self.mask.shape[:2]:
            return  # a shared matrix applied to something other than tokens (DeBERTa's relative positions)
        if self.fisher:
            self.inputs[name] = x
        if self.last is None or (self.last[0] is not x and self.last[0].data_ptr() != x.data_ptr()):
            real = (x * self.mask).flatten(0, 1).float()
            # Q, K and V have one input: compute its moments once
            self.last = (x, (real.T @ real).double(), real.sum(0).double())
        self.moments[name] = self.moments[name] + self.last[1] if name in self.moments else self.last[1]
        self.sums[name] = self.sums[name] + self.last[2] if name in self.sums else self.last[2]

    def _add_gradient(self, name: str, gradient: Tensor) -> None:
        if gradient.shape[:2] != self.mask.shape[:2]:
            return
        g = torch.einsum("bto,bti->boi", (gradient * self.mask).float(), self.inputs[name].float())
        squares = g.square().sum((0, 2)).double()
        self.rows[name] = self.rows[name] + squares if name in self.rows else squares

    def statistics(self, biased: dict[str, bool]) -> dict[str, Statistics]:
        """Averages over what was added up, by module name.

        Args:
            biased: whether each matrix has a bias.
        """
        return {
            name: Statistics(
                inputs=self.moments[name] / self.tokens,
                mean=self.sums[name] / self.tokens if has_bias else None,
                rows=self.rows[name] / self.examples if self.fisher else None,
            )
            for name, has_bias in biased.items()
        }
