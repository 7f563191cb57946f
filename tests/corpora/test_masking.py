"""Masking: the shares of the paper, and the same draw wherever, whenever and in whatever batch a block is masked."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest, chisquare, kstest
from torch import Tensor

from stages.corpora.masking import Masking, mask_tokens, random_bits, to_uniform

RULE = Masking(seed=7, share=0.15, whole_words=False, mask_id=4, vocabulary=1000, special=(0, 1, 2, 3, 4))
BLOCKS, LENGTH = 512, 128


def make_blocks(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Ids with special tokens at both ends and some inside, word starts, block numbers."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 1000, (BLOCKS, LENGTH), generator=draw)
    ids[torch.rand(ids.shape, generator=draw) < 0.05] = 1
    ids[:, 0], ids[:, -1] = 2, 3
    starts = (torch.rand(ids.shape, generator=draw) < 0.6) | (ids < 5)
    return ids, starts | starts.roll(1, 1) & (ids.roll(1, 1) < 5), torch.arange(BLOCKS)


def step_splitmix(value: int) -> int:
    """The published step, on Python's own integers."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def is_likely(hits: int, count: int, share: float) -> bool:
    return binomtest(hits, count, share).pvalue > 1e-4


def test_bits_equal_the_published_generators() -> None:
    assert step_splitmix(0) == 0xE220A8397B1DCDAF, "its first number for seed 0"
    rows, columns = [3, 2**40], [0, 1, 77]
    bits = random_bits(42, torch.tensor(rows)[:, None], torch.tensor(columns))
    expected = [[step_splitmix(step_splitmix(step_splitmix(42) ^ row) ^ column) for column in columns] for row in rows]
    assert [[each % 2**64 for each in row] for row in bits.tolist()] == expected
    assert to_uniform(bits).tolist() == [[(each >> 11) / 2**53 for each in row] for row in expected]


@pytest.mark.parametrize("axis", ["seeds", "epochs", "blocks", "places", "many"])
def test_numbers_are_uniform_along_every_axis(axis: str) -> None:
    count = torch.arange(20_000)
    counters = {
        "seeds": (count, 0, 0, 0),
        "epochs": (7, count, 0, 0),
        "blocks": (7, 1, count, 3),
        "places": (7, 1, 5, count),
        "many": (7, 1, count[:200, None], count[:200]),
    }
    numbers = to_uniform(random_bits(*counters[axis])).flatten()
    assert kstest(numbers.numpy(), "uniform").pvalue > 1e-3
    assert numbers.min() >= 0 and numbers.max() < 1
    neighbors = torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1]
    assert abs(neighbors) < 4 / math.sqrt(len(numbers))


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_shares_are_those_of_the_paper(share: float) -> None:
    ids, starts, index = make_blocks()
    inputs, labels = mask_tokens(ids, starts, index, 0, replace(RULE, share=share))
    chosen = labels >= 0
    assert is_likely(int(chosen.sum()), int((ids >= 5).sum()), share)
    assert torch.equal(labels[chosen], ids[chosen]) and (labels[~chosen] == -100).all()
    assert torch.equal(inputs[~chosen], ids[~chosen])
    masked, same = chosen & (inputs == 4), chosen & (inputs == ids)
    other, count = chosen & ~masked & ~same, int(chosen.sum())
    for part, expected in ((masked, 0.8), (same, 0.1), (other, 0.1)):
        assert is_likely(int(part.sum()), count, expected)
    assert chisquare(torch.bincount(inputs[other] * 10 // 1000, minlength=10).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("whole_words", [False, True])
def test_special_tokens_stay(whole_words: bool) -> None:
    ids, starts, index = make_blocks()
    inputs, labels = mask_tokens(ids, starts, index, 0, replace(RULE, share=0.9, whole_words=whole_words))
    assert torch.equal(inputs[ids < 5], ids[ids < 5]) and (labels[ids < 5] == -100).all()


@pytest.mark.parametrize("whole_words", [False, True])
def test_batches_and_order_change_nothing(whole_words: bool) -> None:
    ids, starts, index = make_blocks()
    rule = replace(RULE, whole_words=whole_words)
    whole = torch.stack(mask_tokens(ids, starts, index, 3, rule))
    order = torch.randperm(BLOCKS, generator=torch.Generator().manual_seed(1))
    for size in (1, 7, 100):
        parts = [torch.stack(mask_tokens(ids[rows], starts[rows], index[rows], 3, rule)) for rows in order.split(size)]
        assert torch.equal(torch.cat(parts, 1), whole[:, order])


def test_epochs_seeds_streams_and_blocks_are_drawn_apart() -> None:
    ids, starts, _ = make_blocks()
    ids, starts = ids[:1].expand(400, -1), starts[:1].expand(400, -1)
    index, free = torch.arange(400), int((ids[0] >= 5).sum())
    chosen = mask_tokens(ids, starts, index, 0, RULE)[1] >= 0
    others = {
        "epoch": mask_tokens(ids, starts, index, 1, RULE),
        "seed": mask_tokens(ids, starts, index, 0, replace(RULE, seed=8)),
        "stream": mask_tokens(ids, starts, index, 0, replace(RULE, stream=1)),
        "block": mask_tokens(ids, starts, index + 400, 0, RULE),
    }
    for name, (_, labels) in others.items():
        both = int((chosen & (labels >= 0)).sum())
        assert is_likely(both, 400 * free, 0.15**2), name


def test_words_stay_together() -> None:
    ids, starts, index = make_blocks()
    _, labels = mask_tokens(ids, starts, index, 0, replace(RULE, whole_words=True))
    chosen = labels >= 0
    within = ~starts[:, 1:] & (ids[:, 1:] >= 5) & (ids[:, :-1] >= 5)
    assert within.sum() > 1000
    assert torch.equal(chosen[:, 1:][within], chosen[:, :-1][within])
    assert is_likely(int((chosen & starts).sum()), int((starts & (ids >= 5)).sum()), 0.15), "of the words, too, 15 %"


def test_the_rest_of_a_word_that_began_in_the_block_before_is_a_word() -> None:
    ids = torch.full((2000, 6), 9)
    ids[:, 0], ids[:, -1] = 2, 3
    starts = torch.tensor([True, False, False, True, True, True]).expand(2000, -1)
    chosen = mask_tokens(ids, starts, torch.arange(2000), 0, replace(RULE, whole_words=True))[1] >= 0
    assert torch.equal(chosen[:, 1], chosen[:, 2]) and 0 < chosen[:, 1].sum() < 2000 and not chosen[:, 0].any()


@pytest.mark.parametrize("whole_words", [False, True])
def test_every_block_has_something_to_predict(whole_words: bool) -> None:
    ids, starts, index = make_blocks()
    _, labels = mask_tokens(ids, starts, index, 0, replace(RULE, share=1e-9, whole_words=whole_words))
    words = (labels >= 0) & (starts if whole_words else True)
    assert (words.sum(1) <= 1).all() and ((labels >= 0).sum(1) >= 1).all()
    nothing = torch.tensor([[2, 1, 1, 3]])
    inputs, labels = mask_tokens(nothing, nothing > 0, torch.tensor([0]), 0, RULE)
    assert torch.equal(inputs, nothing) and (labels == -100).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_a_gpu_draws_the_same() -> None:
    ids, starts, index = make_blocks()
    on_cpu = mask_tokens(ids, starts, index, 5, replace(RULE, whole_words=True))
    on_gpu = mask_tokens(ids.cuda(), starts.cuda(), index.cuda(), 5, replace(RULE, whole_words=True))
    assert all(torch.equal(a, b.cpu()) for a, b in zip(on_cpu, on_gpu, strict=True))
