"""Samples in; rates, percentiles and errors out, and whether the service kept up."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from serving.exported import ModelError
from serving.load.client import TIMEOUT
from serving.load.loops import Sample

PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p95_ms": 95, "p99_ms": 99, "p999_ms": 99.9, "max_ms": 100}
ERRORS, DRIFT, BEHIND, STEP = 0.01, 0.02, 0.1, 1.05
"""What still counts as keeping up: share of errors, growth of the latency, share of the run's time by which the last
answers come after its end; and how closely saturation is found."""


def summarize(samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    """Of one run of a loop; times in milliseconds, rates per second.

    Latencies are those of answered requests and of those given up, with the time waited for them; what was refused at
    once is counted in `errors` alone. `drift` is by how much the latency grows while time passes (seconds a second,
    medians of the last third against the first): 0 where the service keeps up, rate / capacity - 1 where it does not.
    `behind` is for how long after the run the service still answered (99 % of all), as a share of the run.
    `late_ms` is how far the client itself lagged behind its schedule (p99); where that is no small part of the
    latency, the client is what was measured.
    """
    errors = Counter(sample.error for sample in samples if sample.error)
    waited = [sample for sample in samples if sample.error in (None, TIMEOUT)]
    answered = len(samples) - errors.total()
    found = {
        "sent": len(samples),
        "answered": answered,
        "errors": dict(errors),
        "per_second": answered / max([seconds, *(sample.done for sample in samples)]),
    }
    if not waited:
        return found
    times = np.percentile([1000 * sample.latency for sample in waited], list(PERCENTILES.values()))
    late = np.percentile([1000 * (sample.sent - sample.due) for sample in waited], 99)
    return (
        found
        | dict(zip(PERCENTILES, times.tolist(), strict=True))
        | {"drift": _measure_drift(waited, seconds), "behind": _measure_lag(waited, seconds), "late_ms": float(late)}
    )


def _measure_drift(samples: Sequence[Sample], seconds: float) -> float:
    first = [sample.latency for sample in samples if sample.due < seconds / 3]
    last = [sample.latency for sample in samples if sample.due >= seconds * 2 / 3]
    return float(np.median(last) - np.median(first)) / (seconds * 2 / 3) if first and last else 0.0


def _measure_lag(samples: Sequence[Sample], seconds: float) -> float:
    return max(0.0, float(np.percentile([sample.done for sample in samples], 99)) / seconds - 1)


def kept_up(run: dict[str, Any], limit_ms: float | None = None) -> bool:
    """Whether the service kept up with a rate: few errors, no growing latency, no long queue left, p99 in the limit."""
    if not run["answered"] or sum(run["errors"].values()) > ERRORS * run["sent"]:
        return False
    return run["drift"] <= DRIFT and run["behind"] <= BEHIND and run["p99_ms"] <= (limit_ms or np.inf)


async def find_saturation(keeps_up: Callable[[float], Awaitable[bool]], guess: float) -> float:
    """The highest rate that the service keeps up with, to 5 %, by bisection.

    Raises:
        ModelError: it keeps up with none.
    """
    low, high, rate = 0.0, np.inf, guess
    while high > STEP * low:
        if await keeps_up(rate):
            low = rate
        else:
            high = rate
        if high < guess / 100:
            raise ModelError(f"the service does not keep up even with {high:.3g} requests per second; raise --limit-ms")
        rate = 1.25 * low if high == np.inf else (low + high) / 2
    return low
