"""Closed and open loop: who sends when.

In a closed loop each client waits for its answer before it sends again: a service that stalls is asked less while it
stalls, and its few slow answers drown among the fast ones (coordinated omission). In an open loop requests come when
they come, as from independent people, and each latency is counted from the moment at which the request was meant to be
sent, whether or not the client got to it in time: a stall of a second is felt by all who came in that second.
(Tene 2013, "How NOT to measure latency"; Schroeder et al. 2006, "Open versus closed".)
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

Ask = Callable[[bytes], Awaitable[str | None]]
PAUSE = 0.1
"""Seconds that a closed loop's client waits after an error, so that it does not spin on a service that refuses."""


class Sample(NamedTuple):
    """One request; times in seconds from the start of the loop."""

    due: float
    """When it was meant to be sent."""
    sent: float
    done: float
    error: str | None

    @property
    def latency(self) -> float:
        return self.done - self.due


async def run_closed_loop(ask: Ask, bodies: Sequence[bytes], clients: int, seconds: float) -> list[Sample]:
    """`clients` that each send, wait for the answer and send again."""
    elapsed, queue, samples = _stopwatch(), itertools.cycle(bodies), []

    async def client() -> None:
        while (now := elapsed()) < seconds:
            samples.append(await _time_request(ask, next(queue), now, elapsed))
            if samples[-1].error:
                await asyncio.sleep(PAUSE)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return samples


async def run_open_loop(ask: Ask, bodies: Sequence[bytes], schedule: Iterable[float]) -> list[Sample]:
    """A request at each time of the schedule, in seconds from now, whatever became of those before it."""
    elapsed, queue, tasks = _stopwatch(), itertools.cycle(bodies), []
    async with asyncio.TaskGroup() as group:
        for due in schedule:
            await asyncio.sleep(max(0.0, due - elapsed()))
            tasks.append(group.create_task(_time_request(ask, next(queue), due, elapsed)))
    return [task.result() for task in tasks]


def schedule_requests(rate: float, seconds: float, arrivals: str, seed: int) -> list[float]:
    """When requests are due: `constant`, 1 / rate apart; or `poisson`, with exponential gaps of that mean."""
    if arrivals == "constant":
        return (np.arange(round(rate * seconds)) / rate).tolist()
    rng, whole = np.random.default_rng(seed), round(rate * seconds)
    return np.sort(rng.uniform(0, seconds, rng.poisson(whole))).tolist()


async def _time_request(ask: Ask, body: bytes, due: float, elapsed: Callable[[], float]) -> Sample:
    sent = elapsed()
    error = await ask(body)
    return Sample(due=due, sent=sent, done=elapsed(), error=error)


def _stopwatch() -> Callable[[], float]:
    """Seconds from now, by the event loop's own clock."""
    now = asyncio.get_running_loop().time
    start = now()
    return lambda: now() - start
