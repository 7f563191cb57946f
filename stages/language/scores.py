"""What a language model is asked, and what it said: the same for its training and for its scores.

A causal model is asked for the next token at the position before each label: labels (batch, tokens) hold the text's own
ids, and -100 where nobody asks (prompts, padding).
"""

from typing import NamedTuple

from torch import Tensor, nn, stack

from stages.tasks import IGNORED


class Question(NamedTuple):
    """A batch as a model is asked about it."""

    inputs: dict[str, Tensor]
    """What the model reads: input_ids and attention_mask, (batch, tokens)."""
    where: Tensor
    """Positions that are asked, (batch, tokens), bool."""
    answers: Tensor
    """The right tokens, row by row, (places,)."""


def next_tokens(batch: dict[str, Tensor]) -> Question:
    """Of a collated batch: input_ids, attention_mask, labels, each (batch, tokens)."""
    following = nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    where = following >= 0
    return Question({name: batch[name] for name in ("input_ids", "attention_mask")}, where, following[where])


def answered(logits: Tensor, answers: Tensor) -> Tensor:
    """−log q(y) in nats, and whether y is the likeliest token: (places, 2), float32; logits (places, vocabulary)."""
    loss = nn.functional.cross_entropy(logits.float(), answers, reduction="none")
    return stack([loss, (logits.argmax(-1) == answers).float()], dim=1)


def summed(values: Tensor, where: Tensor) -> Tensor:
    """Sums over each example's places: values (places, n), where (batch, tokens) -> (batch, n)."""
    return values.new_zeros(len(where), values.shape[1]).index_add_(0, where.nonzero()[:, 0], values)
