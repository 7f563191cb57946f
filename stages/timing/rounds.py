"""Models timed against each other in one process, so that a busy machine slows all of them alike.

They take turns: each round draws new batches, every model runs them, and who begins rotates. The figure that counts
is the ratio of two models' times within one round, median over the rounds. Tokenizing, the same for all, is not timed.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving.exported import ModelError
from serving.opening import ExportedModel, open_model
from stages.errors import BadInput
from stages.settings import Benchmark

Batch = dict[str, np.ndarray]
Prepare = Callable[[Batch], tuple[Callable[[], Any], int]]
"""Makes a batch ready for a model: returns what is timed, and how many units of work that does."""
Rounds = dict[str, list[list[float]]]
"""Seconds per unit of every run, by model and round."""
RUNS_PER_ROUND = 8


def open_timed_model(settings: Benchmark, folder: Path, variant: str) -> ExportedModel:
    """A model with `benchmark.threads` that do not spin, on `benchmark.provider`.

    Raises:
        BadInput: the provider is not there, or the folder is not what export writes.
    """
    try:
        return open_model(folder, variant, threads=settings.threads, provider=settings.provider)
    except ModelError as error:
        raise BadInput(f"benchmark: {error}") from error


def time_in_turns(models: Mapping[str, Prepare], draw: Callable[[], Batch], seconds: float) -> Rounds:
    """Runs all models in turn: at least three rounds, `seconds` a model in all."""
    start = time.perf_counter()
    for prepare in models.values():  # warms up, too
        for _ in range(3):
            _time_unit(prepare, draw())
    each = (time.perf_counter() - start) / (3 * len(models))
    runs = int(min(RUNS_PER_ROUND, max(1, seconds / 5 / each)))
    rounds: Rounds = {name: [] for name in models}
    order, start = list(models), time.perf_counter()
    while len(rounds[order[0]]) < 3 or time.perf_counter() - start < seconds * len(models):
        batches = [draw() for _ in range(runs)]
        for name in order:
            rounds[name].append([_time_unit(models[name], batch) for batch in batches])
        order = order[1:] + order[:1]
    return rounds


def _time_unit(prepare: Prepare, batch: Batch) -> float:
    """Seconds per unit of work."""
    run, units = prepare(batch)
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / units


def summarize_latency(rounds: list[list[float]], size: int) -> dict[str, Any]:
    """Percentiles of one model's runs in milliseconds per unit, sentences (or tokens) per second, number of runs.

    Args:
        size: sentences or tokens in a unit of work.
    """
    times = 1000 * np.concatenate(rounds)
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "per_second": 1000 * size * len(times) / float(times.sum()),
        "runs": len(times),
    }


def measure_speedup(rounds: Rounds, slow: str, fast: str) -> float:
    """Median over the rounds of `slow`'s time / `fast`'s time on the same batches; above 1 `fast` is faster."""
    pairs = zip(rounds[slow], rounds[fast], strict=True)
    return float(np.median([sum(one) / sum(other) for one, other in pairs]))
