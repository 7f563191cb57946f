"""What calibration text says of each matrix: the second moment of its input, the Fisher information of its rows."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stages.lowrank.decompose import Statistics
from stages.models.anatomy import Parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput


def calibrate(
    model: "PreTrainedModel", names: list[str], batches: Iterable[dict[str, Tensor]], *, fisher: bool
) -> dict[str, Statistics]:
    """Statistics of the named matrices over the batches; padding never counts.

    Means and second moments are sums of x and x xᵀ over real tokens, divided by their number; the mean is given for
    matrices with a bias. Fisher information is that of the task's loss, per example: g = Σ_tokens δ xᵀ, then Σ_j g_ij²
    averaged over examples. Source: FWSVD (Hsu et al. 2022), eq. 5, with the empirical Fisher taken per example instead
    of per batch (ours: a batch's mean gradient hides what cancels).
    """
    gather = _Gather(fisher)
    handles = [h for name in names for h in gather.watch(name, model.get_submodule(name))]
    parts = Parts(model.eval())
    try:
        for batch in batches:
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            gather.begin(batch["attention_mask"])
            if fisher:
                _loss(model(**batch), batch["labels"], parts.anatomy.causal).backward()
                model.zero_grad(set_to_none=True)
            else:
                with torch.inference_mode():
                    parts.backbone(**{name: tensor for name, tensor in batch.items() if name != "labels"})
    finally:
        for handle in handles:
            handle.remove()
    return gather.statistics({name: model.get_submodule(name).bias is not None for name in names})


def _loss(out: "ModelOutput", labels: Tensor, causal: bool) -> Tensor:
    """The task's loss, summed over examples, so that each has its own gradient; a sequence's is the mean over labels.

    Shapes: labels (batch,), or (batch, tokens) with -100 where nothing is asked; a scalar.
    """
    if labels.ndim == 1:
        return out.loss * len(labels)
    logits, answers = (out.logits[:, :-1], labels[:, 1:]) if causal else (out.logits, labels)
    each = nn.functional.cross_entropy(logits.float().transpose(1, 2), answers, reduction="none")
    return (each.sum(1) / (answers >= 0).sum(1).clamp_min(1)).sum()


class _Gather:
    """Hooks that add up moments as batches flow through."""

    def __init__(self, fisher: bool) -> None:
        self.fisher = fisher
        self.moments: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        self.tokens = self.examples = 0
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def begin(self, mask: Tensor) -> None:
        self.mask = mask.unsqueeze(-1)
        self.tokens += int(mask.sum())
        self.examples += len(mask)
        self.last = None

    def watch(self, name: str, module: nn.Module) -> list:
        handles = [module.register_forward_hook(lambda m, args, out: self.forward(name, args[0].detach()))]
        if self.fisher:
            handles.append(module.register_full_backward_hook(lambda m, g_in, g_out: self.backward(name, g_out[0])))
        return handles

    def forward(self, name: str, x: Tensor) -> None:
        if x.shape[:2] != self.mask.shape[:2]:
            return  # a shared matrix applied to something other than tokens (DeBERTa's relative positions)
        if self.fisher:
            self.inputs[name] = x
        if self.last is None or (self.last[0] is not x and self.last[0].data_ptr() != x.data_ptr()):
            real = (x * self.mask).flatten(0, 1).float()
            # Q, K and V see one input: compute it once
            self.last = (x, (real.T @ real).double(), real.sum(0).double())
        self.moments[name] = self.moments.get(name, 0) + self.last[1]
        self.sums[name] = self.sums.get(name, 0) + self.last[2]

    def backward(self, name: str, gradient: Tensor) -> None:
        if gradient.shape[:2] != self.mask.shape[:2]:
            return
        g = torch.einsum("bto,bti->boi", (gradient * self.mask).float(), self.inputs[name].float())
        self.rows[name] = self.rows.get(name, 0) + g.square().sum((0, 2)).double()

    def statistics(self, biased: dict[str, bool]) -> dict[str, Statistics]:
        return {
            name: Statistics(
                inputs=self.moments[name] / self.tokens,
                mean=self.sums[name] / self.tokens if has_bias else None,
                rows=self.rows[name] / self.examples if self.fisher else None,
            )
            for name, has_bias in biased.items()
        }
