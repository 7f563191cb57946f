"""Models take turns: the same batches for all, at least three rounds, who begins rotates; the ratio is of one round."""

from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stages.timing import rounds
from stages.timing.rounds import measure_speedup, summarize_latency, time_in_turns


class Bench:
    """Models whose runs take a known number of seconds, by a clock that only they advance."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.runs: list[tuple[str, int]] = []
        monkeypatch.setattr(rounds, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def make_model(self, name: str, seconds: float, units: int = 1) -> Callable[[Any], Any]:
        def prepare(batch: dict[str, np.ndarray]) -> tuple[Callable[[], None], int]:
            def run() -> None:
                self.now += seconds
                self.runs.append((name, int(batch["number"])))

            self.now += 100 * seconds  # is not timed
            return run, units

        return prepare


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def make_draw() -> Callable[[], dict[str, np.ndarray]]:
    numbers: Iterator[int] = count()
    return lambda: {"number": np.array(next(numbers))}


def test_all_models_run_the_same_batches_and_who_begins_rotates(bench: Bench) -> None:
    models = {name: bench.make_model(name, 1.0) for name in "abc"}
    times = time_in_turns(models, make_draw(), seconds=0.1)
    timed = bench.runs[9:]  # three each have warmed up
    assert ["".join(name for name, _ in timed[i : i + 3]) for i in (0, 3, 6)] == ["abc", "bca", "cab"]
    assert [number for _, number in timed] == [9, 9, 9, 10, 10, 10, 11, 11, 11]
    assert times == {name: [[1.0]] * 3 for name in "abc"}


def test_rounds_go_on_while_there_is_time(bench: Bench) -> None:
    """10 ms a run, its preparation included: 8 runs a round, until 4 seconds in all are over."""
    models = {name: bench.make_model(name, 0.01 / 101) for name in "ab"}
    times = time_in_turns(models, make_draw(), seconds=2.0)
    assert {len(batch) for rows in times.values() for batch in rows} == {8}
    assert len(times["a"]) == len(times["b"]) == pytest.approx(4 / 0.16, abs=1)


def test_a_times_unit_is_the_work_that_it_did(bench: Bench) -> None:
    times = time_in_turns({"a": bench.make_model("a", 1.0, units=16)}, make_draw(), seconds=0.1)
    assert times["a"] == [[1 / 16]] * 3


def test_latency_is_in_milliseconds_and_sentences_per_second() -> None:
    rows = [[0.1, 0.2], [0.3, 0.4]]
    figures = summarize_latency(rows, size=4)
    p50, p95, p99 = np.percentile([100, 200, 300, 400], [50, 95, 99])
    assert [figures["p50_ms"], figures["p95_ms"], figures["p99_ms"]] == pytest.approx([p50, p95, p99])
    assert figures["per_second"] == pytest.approx(16) and figures["runs"] == 4


def test_the_speedup_is_the_median_of_the_rounds_ratios() -> None:
    """A busy moment slows both models of one round, and does not show."""
    times = {"slow": [[2.0, 2.0], [20.0, 20.0], [2.0, 2.0]], "fast": [[1.0, 1.0], [10.0, 10.0], [1.0, 1.5]]}
    assert measure_speedup(times, "slow", "fast") == pytest.approx(2)
    assert measure_speedup(times, "fast", "slow") == pytest.approx(0.5)
