"""Masked tokens, the same wherever and however often they are drawn.

What is masked in a block follows from the seed, the epoch, the block's number and the position in it, by a
counter-based hash (splitmix64, Steele, Lea and Flood 2014): no generator is carried along, so batches, processes,
devices and a resumed training change nothing.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stages.schema.task import IGNORED
from stages.settings import Pack

_STEP, _FIRST, _SECOND = (x - 2**64 for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How tokens are masked (Devlin et al. 2019, section 3.1 and appendix A.1)."""

    seed: int
    stream: int = 0
    """Draws of one seed and different streams are independent."""
    share: float
    """Of the tokens that are not special."""
    whole_words: bool
    """All pieces of a word are masked, or none."""
    mask_id: int
    vocabulary: int
    """Ids below this take the place of a token that is replaced."""
    special: tuple[int, ...]
    """Ids that are never masked: the unknown token cannot be predicted, and [CLS] is always there."""

    @classmethod
    def from_settings(cls, tokenizer: PreTrainedTokenizerBase, settings: Pack, seed: int, stream: int = 0) -> Self:
        """The settings' rule for a tokenizer's ids."""
        return cls(
            seed=seed,
            stream=stream,
            share=settings.mask_probability,
            whole_words=settings.whole_word_masking,
            mask_id=tokenizer.mask_token_id,
            vocabulary=len(tokenizer),
            special=tuple(sorted(tokenizer.all_special_ids)),
        )


def mask_tokens(ids: Tensor, starts: Tensor, index: Tensor, epoch: int, rule: Masking) -> tuple[Tensor, Tensor]:
    """The model's input, and its labels: both (batch, tokens), int64, labels -100 where nothing is predicted.

    Of the masked tokens, 80 % become the mask token, 10 % a random one, 10 % stay. With whole words a word is masked as
    its first piece is drawn; the replacement of each piece is drawn by itself, as in BERT's released code (2019). Ours:
    the word with the lowest draw is always masked, so that every block has something to predict, unless all of it is
    special.

    Args:
        ids: (batch, tokens), int64.
        starts: (batch, tokens), bool; where a word begins.
        index: (batch,), int64; the number of each block in its split.
    """
    position = torch.arange(ids.shape[1], device=ids.device)
    counters = random_bits(rule.seed, rule.stream, epoch, index[:, None], position)
    drawn = to_uniform(random_bits(counters, 0))
    if rule.whole_words:
        drawn = drawn.gather(1, torch.where(starts, position, 0).cummax(1).values)
    drawn = drawn.masked_fill(torch.isin(ids, ids.new_tensor(rule.special)), 2.0)
    lowest = drawn.amin(1, keepdim=True)
    chosen = (drawn < rule.share) | ((drawn == lowest) & (drawn < 1))
    replacement = to_uniform(random_bits(counters, 1))
    other = _shift_right(random_bits(counters, 2), 1) % rule.vocabulary
    inputs = torch.where(chosen & (replacement < 0.8), rule.mask_id, ids)
    inputs = torch.where(chosen & (replacement >= 0.8) & (replacement < 0.9), other, inputs)
    return inputs, torch.where(chosen, ids, IGNORED)


def random_bits(*counters: int | Tensor) -> Tensor:
    """64 random bits (int64) for every combination of whole numbers, which broadcast."""
    bits = torch.zeros((), dtype=torch.int64)
    for counter in counters:
        bits = _mix_bits((bits ^ counter) + _STEP)
    return bits


def to_uniform(bits: Tensor) -> Tensor:
    """Numbers from 0 to 1 (float64), 1 excluded, of the upper 53 bits."""
    return _shift_right(bits, 11).double() * 2.0**-53


def _mix_bits(bits: Tensor) -> Tensor:
    """Splitmix64's last step: every bit of the result depends on every bit given. int64 wraps as uint64 does."""
    bits = (bits ^ _shift_right(bits, 30)) * _FIRST
    bits = (bits ^ _shift_right(bits, 27)) * _SECOND
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """To the right, zeros from the left: torch's own shift copies the sign."""
    return (bits >> count) & (2 ** (64 - count) - 1)
