"""Which tokens a language model predicts, and how its predictions are summed: the same in training and in scoring.

A causal model predicts the next token at the position before each label: labels (batch, tokens) hold the text's own
ids, and -100 where nothing is predicted (prompts, padding).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.schema.task import IGNORED


class TokenTargets(NamedTuple):
    """A batch with the positions that are predicted."""

    inputs: dict[str, Tensor]
    """What the model reads: input_ids and attention_mask, (batch, tokens)."""
    positions: Tensor
    """Where a token is predicted, (batch, tokens), bool."""
    tokens: Tensor
    """The right tokens, row by row, (positions,)."""


def next_token_targets(batch: dict[str, Tensor]) -> TokenTargets:
    """Of a collated batch: input_ids, attention_mask, labels, each (batch, tokens)."""
    following = nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    positions = following >= 0
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return TokenTargets(inputs, positions, following[positions])


def masked_token_targets(ids: Tensor, labels: Tensor) -> TokenTargets:
    """Of masked blocks and their original tokens, both (batch, tokens), labels negative where nothing is predicted."""
    positions = labels >= 0
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return TokenTargets(inputs, positions, labels[positions])


def token_nll(logits: Tensor, tokens: Tensor) -> Tensor:
    """−log q(y) in nats, and whether y is the most probable token: (positions, 2), float32.

    Shapes: logits (positions, vocabulary), tokens (positions,).
    """
    loss = nn.functional.cross_entropy(logits.float(), tokens, reduction="none")
    return torch.stack([loss, (logits.argmax(-1) == tokens).float()], dim=1)


def sum_per_example(values: Tensor, positions: Tensor) -> Tensor:
    """Sums over each example's positions: values (positions, n), positions (batch, tokens) -> (batch, n)."""
    return values.new_zeros(len(positions), values.shape[1]).index_add_(0, positions.nonzero()[:, 0], values)
