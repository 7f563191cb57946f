"""Work in several processes, and waiting for what happens elsewhere."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 120.0
"""Seconds until a test gives up on what takes one or two on an idle machine."""


def run_in_two_processes(work: Callable[[], Any]) -> None:
    """Does `work` in two processes at once, as torchrun would, but forked: nothing is imported anew."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    start = multiprocessing.get_context("fork").Process
    processes = [start(target=_run_as_rank, args=(rank, place, work)) for rank in (0, 1)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(240)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


def _run_as_rank(rank: int, place: dict[str, str], work: Callable[[], Any]) -> None:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()  # what was here before the fork was one process alone
    os.environ |= place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    work()


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Fails where the condition does not hold in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def wait_for_delivery(folder: Path) -> None:
    """Until everything is sent to MLflow; on a busy machine that may go on after the stage."""
    wait_for(lambda: not list((folder / ".makd" / "journal").glob("*.jsonl")))
