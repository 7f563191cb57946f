"""The cache of the teacher's logits: what is read is what was written, and where the first process fails all do."""

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.distillation.logit_cache import open_logit_cache
from stages.errors import BadInput
from stages.settings import Offline
from tests.makers.logits import truncate_logits
from tests.makers.processes import PATIENCE


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("classes", "k"), [(300, 7), (300, 1), (70000, 64), (6, 6), (1, 4)])
def test_the_largest_logits_and_the_mass_of_the_others_are_read_back(classes, k, dtype, tmp_path):
    """Examples of different numbers of rows, written in another order than they are read; logits far from 0."""
    draw, counts = np.random.default_rng(0), [3, 0, 1, 5]
    logits = [(4 * draw.normal(size=(rows, classes)) - 90).astype(np.float32) for rows in counts]
    written = iter([([i], torch.tensor(logits[i])) for i in (3, 1, 0, 2)])
    settings = Offline(k=k, dtype=dtype)
    cache = open_logit_cache(settings, tmp_path / "a.npy", counts=counts, classes=classes, logits=written)
    read = cache.to_logits(cache.read([2, 0, 1, 3])).double().numpy()
    rows = np.concatenate([logits[i] for i in (2, 0, 1, 3)])
    expected = truncate_logits(rows, k) if k < classes else rows
    # half precision has 11 bits, of the distance from the largest
    error = 2**-11 * (rows.max(-1, keepdims=True) - expected) if dtype == "float16" else 0
    assert (abs(read - expected) <= error + 3e-5).all()
    class_bytes = 1 if classes < 256 else 2 if classes < 65536 else 4
    cached_bytes = min(k, classes) * ((2 if dtype == "float16" else 4) + class_bytes)
    assert cache.records.nbytes == 9 * (8 + cached_bytes)


def open_in_process(rank: int, folder: Path, results: multiprocessing.Queue) -> None:
    """One of two processes that nobody watches over; the first one's disk is full after an example."""

    def fill_disk() -> Iterator[tuple[list[int], torch.Tensor]]:
        yield [0], torch.zeros(1, 6)
        raise OSError("No space left on device")

    os.environ["RANK"] = str(rank)
    rendezvous = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    try:
        open_logit_cache(Offline(k=2), folder / "a.npy", counts=[1, 1], classes=6, logits=fill_disk())
    except Exception as error:
        results.put((rank, type(error), str(error)))


def test_where_the_first_process_fails_none_waits_for_ever(tmp_path):
    (tmp_path / "a.npy.failed").write_text("of an earlier run")
    context = multiprocessing.get_context("fork")  # torch is imported already
    results = context.Queue()
    processes = [context.Process(target=open_in_process, args=(rank, tmp_path, results)) for rank in (0, 1)]
    for process in processes:
        process.start()
    try:
        errors = {rank: (kind, text) for rank, kind, text in (results.get(timeout=PATIENCE) for _ in processes)}
    finally:
        for process in processes:
            process.kill()
            process.join()
    reason = "No space left on device"
    assert errors == {0: (OSError, reason), 1: (BadInput, f"distill.offline failed in the first process: {reason}")}
