"""Losses of a causal language model by a plain loop over the tokens, in float64."""

from collections.abc import Iterable
from typing import Any

import torch

from stages.schema.task import IGNORED


@torch.no_grad()
def loop_over_tokens(model: torch.nn.Module, rows: Iterable[dict[str, Any]]) -> list[tuple[float, int, int]]:
    """Sum of −log q(y), correct tokens and predicted tokens of each row by itself."""
    sums = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double()
        loss, hits, tokens = 0.0, 0, 0
        for position, label in enumerate(row["labels"][1:]):
            if label != IGNORED:
                loss += float(logits[position].logsumexp(0) - logits[position, label])
                hits += int(logits[position].argmax() == label)
                tokens += 1
        sums.append((loss, hits, tokens))
    return sums
