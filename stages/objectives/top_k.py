"""The most probable classes, and how far two models agree on them: RLKD's consistency and overlap rates."""

import torch
from torch import Tensor

CONSISTENCY_K = (1, 2, 3, 4, 5)
"""k of the consistency rates CR@k."""
OVERLAP_K = (3, 5, 10, 20)
"""k of the mean overlap rates MOR@k."""
GROUP = 64
"""Classes whose maximum is searched first."""


def agreement_rates(student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """`cr@k`, 1 where the ordered top k are the same; `mor@k`, the share of the top k that both have; for each row.

    Shapes: (rows, classes) twice -> (rows,) each, float32; only those k that are at most the number of classes.
    Source: RLKD (Peng & Zhang 2025).
    """
    ours, theirs = (top_k(x, max(CONSISTENCY_K + OVERLAP_K)) for x in (student, teacher))
    same, most = (ours == theirs).cumprod(-1).float(), ours.shape[-1]
    consistency = {f"cr@{k}": same[:, k - 1] for k in CONSISTENCY_K if k <= most}
    return consistency | {f"mor@{k}": _overlap(ours[:, :k], theirs[:, :k]) for k in OVERLAP_K if k <= most}


def overlap_rate(student: Tensor, teacher: Tensor, k: int) -> Tensor:
    """|topk(p) ∩ topk(q)| / k of each row; (rows, classes) twice -> (rows,), float32. With fewer classes k is those."""
    return _overlap(top_k(student, k), top_k(teacher, k))


def top_k(logits: Tensor, k: int) -> Tensor:
    """The k most probable classes, best first, (rows, k); all where there are fewer.

    Of a large vocabulary, the best of the k groups of neighbors with the largest maxima, since no other group holds
    one: a pass that finds maxima takes a quarter of the time of one that finds the top k.
    """
    logits = logits.detach()
    classes = torch.arange(logits.shape[-1], device=logits.device)
    k = min(k, len(classes))
    if len(classes) < GROUP**2:
        return logits.topk(k).indices
    whole = len(classes) // GROUP * GROUP
    groups = logits[:, :whole].unflatten(-1, (-1, GROUP)).amax(-1).topk(min(k, whole // GROUP)).indices
    candidates = classes[:whole].view(-1, GROUP)[groups].flatten(1)
    candidates = torch.cat([candidates, classes[whole:].expand(len(logits), -1)], -1)
    return candidates.gather(-1, logits.gather(-1, candidates).topk(k).indices)


def is_in(some: Tensor, others: Tensor) -> Tensor:
    """Which of `some` are among the row's `others`; (rows, k), (rows, m) -> (rows, k), bool."""
    return (some.unsqueeze(-1) == others.unsqueeze(-2)).any(-1)


def _overlap(ours: Tensor, theirs: Tensor) -> Tensor:
    return is_in(ours, theirs).to(torch.float32).mean(-1)
