"""Clocks that tests set: simulated seconds of an event loop, and counted work in place of seconds."""

import asyncio
import selectors
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import onnx
import pytest

from serving.decoder import Decoder
from serving.predictor import Predictor
from stages.timing import rounds

ARRIVAL = 0.005
"""Real seconds in which bytes that were sent over loopback arrive."""


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing else is ready: seconds of sleep take no time."""

    class Selector(selectors.DefaultSelector):
        now = 0.0

        def select(self, timeout: float | None = None) -> list[Any]:
            sockets = len(self.get_map()) > 1  # beside the loop's own pipe
            ready = super().select(None if timeout is None else min(timeout, ARRIVAL * sockets))
            if not ready:
                self.now += timeout or 0.0
            return ready

    def __init__(self) -> None:
        self.selector = self.Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now

    def pass_time(self, seconds: float) -> None:
        """As work that keeps the loop busy so long."""
        self.selector.now += seconds


def run_simulated(work: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine returns, on a simulated clock that starts at 0."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(work)


def count_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times in `stages.timing` are the work of the graphs from now on, not seconds.

    A classifier's batch counts as many units as its graph has nodes, once per token; a step of a decoder counts 1.
    """
    work, nodes = [0.0], WeakKeyDictionary()
    open_predictor, run, step = Predictor.__init__, Predictor.run, Decoder.step

    def open_counted(self: Predictor, *arguments: Any, **named: Any) -> None:
        open_predictor(self, *arguments, **named)
        nodes[self] = len(onnx.load(self.path).graph.node)

    def run_counted(self: Predictor, batch: Any) -> Any:
        work[0] += nodes[self] * batch["input_ids"].size
        return run(self, batch)

    def step_counted(self: Decoder, *arguments: Any, **named: Any) -> Any:
        work[0] += 1
        return step(self, *arguments, **named)

    monkeypatch.setattr(Predictor, "__init__", open_counted)
    monkeypatch.setattr(Predictor, "run", run_counted)
    monkeypatch.setattr(Decoder, "step", step_counted)
    monkeypatch.setattr(rounds, "time", SimpleNamespace(perf_counter=lambda: work[0]))
