"""Documents in, two splits of blocks filled; where a corpus has no validation text, a share of its documents is."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from stages.corpora.tokens import batched, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.corpora.blocks import Writer

HELD_OUT = 2
"""Stream of random numbers, beside training's masks (0) and the frozen ones (1)."""


def fill(
    writers: dict[str, "Writer"],
    parts: Mapping[str, Iterator[str]],
    tokenizer: "PreTrainedTokenizerBase",
    share: float,
    seed: int,
) -> None:
    """Writes until the corpus ends or train has all that it may.

    Args:
        writers: `train` and `validation`.
        parts: texts of `train` and, where there are any apart, of `validation`.
        share: of train's documents to hold out where there are none.
    """
    from tqdm import tqdm

    train = writers["train"]
    wanted = train.most and train.most * train.length
    with tqdm(desc="packing", unit=" tokens", unit_scale=True, total=wanted) as bar:
        for split, texts in _split(parts, share, seed):
            before = train.blocks
            writers[split].write(*tokenize(texts, tokenizer, train.end))
            bar.update((train.blocks - before) * train.length)
            bar.set_postfix(validation=writers["validation"].blocks, refresh=False)
            if train.full:
                break


def _split(parts: Mapping[str, Iterator[str]], share: float, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Documents, many at a time, each time of one split; `validation` first where the corpus has it apart."""
    for texts in batched(parts.get("validation", ())):
        yield "validation", texts
    number = 0
    for texts in batched(parts["train"]):
        held = [False] * len(texts) if "validation" in parts else _held_out(number, len(texts), share, seed)
        for split, wanted in {"validation": True, "train": False}.items():
            if chosen := [text for text, out in zip(texts, held, strict=True) if out == wanted]:
                yield split, chosen
        number += len(texts)


def _held_out(first: int, count: int, share: float, seed: int) -> list[bool]:
    """Which documents are for validation; each by its own number, so that how many follow changes nothing."""
    import torch

    from stages.corpora.masking import random_bits, uniform

    return (uniform(random_bits(seed, HELD_OUT, torch.arange(first, first + count))) < share).tolist()
