"""The load tool on a simulated clock, where all figures are known exactly: a stall is felt by all who came in it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from serving.load.figures import find_saturation, kept_up, summarize
from serving.load.loops import Sample, run_closed_loop, run_open_loop, schedule_requests
from tests.makers.clocks import run_simulated

BODY = b'{"inputs": [["a film"]]}'


class Queue:
    """One worker that takes `seconds` a request, in the order of arrival."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._free = seconds, asyncio.Semaphore(1)

    async def ask(self, body: bytes) -> None:
        async with self._free:
            await asyncio.sleep(self.seconds)


async def ask_stalling(body: bytes) -> None:
    """Answers after 10 ms, but stands still from 0.3 to 0.7 s."""
    await asyncio.sleep(0.01)
    now = asyncio.get_running_loop().time()
    if 0.3 <= now < 0.7:
        await asyncio.sleep(0.7 - now)


def summarize_simulated(loop: Coroutine[Any, Any, list[Sample]], seconds: float) -> dict[str, Any]:
    return summarize(run_simulated(loop), seconds)


def run_rate(ask: Callable[[bytes], Awaitable[None]], rate: float, seconds: float) -> Coroutine:
    return run_open_loop(ask, [BODY], schedule_requests(rate, seconds, "constant", 1))


def test_a_stall_is_felt_by_all_who_came_in_it() -> None:
    """0.4 s of one second stand still: of requests spread evenly, a tenth wait for 0.3 s or more.

    A request that comes t seconds before the end of the stall takes t; so P(latency > x) = 0.4 - x.
    """
    figures = summarize_simulated(run_rate(ask_stalling, 1000, 1.0), 1.0)
    assert figures["p90_ms"] == pytest.approx(310, abs=2) and figures["p99_ms"] == pytest.approx(400, abs=2)
    assert figures["p50_ms"] == pytest.approx(10)


def test_a_client_that_waits_omits_the_stall() -> None:
    """It meets it once: of some sixty answers one is slow, and the tail is as short as if nothing had happened."""
    figures = summarize_simulated(run_closed_loop(ask_stalling, [BODY], 1, 1.0), 1.0)
    assert figures["p95_ms"] == pytest.approx(10) and figures["max_ms"] == pytest.approx(410, abs=11)
    assert figures["sent"] == pytest.approx(61, abs=2)


def test_saturation_is_the_capacity() -> None:
    """10 ms a request: 100 per second, found to 5 % from below, whether the first guess is too high or too low."""

    async def search(guess: float) -> float:
        queue = Queue(0.01)

        async def keeps_up(rate: float) -> bool:
            due = schedule_requests(rate, 4, "poisson", 1)
            return kept_up(summarize(await run_open_loop(queue.ask, [BODY], due), 4))

        return await find_saturation(keeps_up, guess)

    for guess in (30, 300):
        assert 85 < run_simulated(search(guess)) < 103


def test_an_overloaded_service_drifts() -> None:
    """At 1.8 times the capacity a request waits 0.8 s longer with each second that passes (rate / capacity - 1)."""

    async def run(rate: float) -> list[Sample]:
        return await run_rate(Queue(0.01).ask, rate, 3)

    assert summarize_simulated(run(180), 3)["drift"] == pytest.approx(0.8, abs=0.01)
    assert summarize_simulated(run(90), 3)["drift"] == pytest.approx(0, abs=1e-6)


def test_a_limit_on_the_tail_lowers_what_counts_as_sustained() -> None:
    figures = summarize_simulated(run_rate(ask_stalling, 100, 5), 5)
    assert kept_up(figures) and kept_up(figures, 500) and not kept_up(figures, 300)


def test_answers_that_all_come_late_are_no_keeping_up() -> None:
    """All answered at once, long after the run: the latency does not grow, but the service was not up to the rate."""
    samples = [Sample(due=i / 100, sent=i / 100, done=3 - i / 1e6, error=None) for i in range(100)]
    assert not kept_up(summarize(samples, 1.0))
    assert kept_up(summarize([sample._replace(done=sample.due + 0.05) for sample in samples], 1.0))


def test_latency_counts_from_the_due_time_though_the_client_was_late() -> None:
    """A client that is prevented from sending owns up to it: 0.2 s of its own delay are in every latency."""

    async def ask(body: bytes) -> None:
        if body == b"block":
            asyncio.get_running_loop().pass_time(0.2)

    samples = run_simulated(run_open_loop(ask, [b"block", b"", b""], [0.0, 0.01, 0.02]))
    late = [sample.sent - sample.due for sample in samples]
    assert late == pytest.approx([0, 0.19, 0.18])
    assert [sample.latency for sample in samples] == pytest.approx([0.2, 0.19, 0.18])
    assert summarize(samples, 0.1)["late_ms"] > 160


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_schedules_have_their_rate(arrivals: str) -> None:
    """Gaps of 1/rate in the mean; exponential ones have a deviation as large as their mean (Poisson)."""
    due = schedule_requests(100, 200.0, arrivals, seed=3)
    gaps = np.diff(due)
    assert gaps.mean() == pytest.approx(0.01, rel=0.03) and gaps.min() >= 0 and due[-1] < 200
    assert gaps.std() == pytest.approx(0.01 if arrivals == "poisson" else 0, rel=0.05, abs=1e-9)
    assert due == schedule_requests(100, 200.0, arrivals, seed=3)


def test_percentiles_are_numpys() -> None:
    """Of latencies that are known: 1 to 1000 ms."""
    samples = [
        Sample(due=i / 1000, sent=i / 1000, done=i / 1000 + (i * 7 % 1000 + 1) / 1000, error=None) for i in range(1000)
    ]
    figures = summarize(samples, 1.0)
    assert [figures[name] for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")] == pytest.approx(
        [500.5, 900.1, 990.01, 1000]
    )
