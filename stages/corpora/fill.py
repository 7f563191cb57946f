"""Documents in, two splits of blocks filled; where a corpus has no validation text, a share of its documents is held
out.
"""

from collections.abc import Iterator, Mapping

import torch
from transformers import PreTrainedTokenizerBase

from stages.corpora.blocks import BlockWriter
from stages.corpora.masking import random_bits, to_uniform
from stages.corpora.tokens import batch_texts, tokenize_texts
from stages.progress import Progress

HELD_OUT = 2
"""Stream of random numbers; training's masks are stream 0, those of validation 1."""


def fill_blocks(
    writers: Mapping[str, BlockWriter],
    documents: Mapping[str, Iterator[str]],
    tokenizer: PreTrainedTokenizerBase,
    share: float,
    seed: int,
) -> None:
    """Writes until the corpus ends or train has all the blocks that it may have.

    Args:
        writers: `train` and `validation`.
        documents: texts of `train` and, where the corpus has one, of `validation`.
        share: of train's documents to hold out where it has none.
    """
    train = writers["train"]
    with Progress("packing", train.most and train.most * train.length, unit="tokens") as progress:
        for split, texts in _split_documents(documents, share, seed):
            before = train.blocks
            writers[split].write(*tokenize_texts(texts, tokenizer, train.end))
            done = (train.blocks - before) * train.length
            progress.advance(done, **{"validation blocks": f"{writers['validation'].blocks:,}"})
            if train.full:
                break


def _split_documents(
    documents: Mapping[str, Iterator[str]], share: float, seed: int
) -> Iterator[tuple[str, list[str]]]:
    """Documents, many at a time, each time of one split; `validation` first where the corpus has one."""
    for texts in batch_texts(documents.get("validation", ())):
        yield "validation", texts
    number = 0
    for texts in batch_texts(documents["train"]):
        held = [False] * len(texts) if "validation" in documents else _draw_held_out(number, len(texts), share, seed)
        for split, is_held in {"validation": True, "train": False}.items():
            if chosen := [text for text, out in zip(texts, held, strict=True) if out == is_held]:
                yield split, chosen
        number += len(texts)


def _draw_held_out(first: int, count: int, share: float, seed: int) -> list[bool]:
    """Which documents are for validation; each by its own number, so that how many follow changes nothing."""
    return (to_uniform(random_bits(seed, HELD_OUT, torch.arange(first, first + count))) < share).tolist()
