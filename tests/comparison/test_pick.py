"""Which student to take: the Pareto front, and the best within a limit."""

from typing import Any

import numpy as np
import pytest

from stages.comparison.pick import find_pareto_front, pick_student
from stages.settings import Limit

UNKNOWN = float("nan")


def make_students(**figures: tuple[float, float, float]) -> list[dict[str, Any]]:
    """Students by score, parameters (millions) and latency."""
    return [
        {"model": name, "score": score, "retention": score, "parameters": size * 1e6, "layer_parameters": size * 1e6,
         "bytes": 4e6 * size, "p50_ms": latency}
        for name, (score, size, latency) in figures.items()
    ]  # fmt: skip


FIVE = make_students(
    big=(90, 20, 5.0), small=(80, 10, 3.0), slow=(80, 10, 4.0), worse=(79, 11, 3.1), quick=(70, 12, 2.0)
)


@pytest.mark.parametrize(
    ("students", "front"),
    [
        (FIVE, ["big", "small", "quick"]),
        (make_students(a=(90, 20, 5.0), b=(80, 19.9, 4.9)), ["a"]),  # within 1 % and 5 % is the same
        (make_students(a=(90, 20, UNKNOWN), b=(80, 20, 1.0), c=(85, 10, UNKNOWN)), ["a", "c"]),  # unknown: not compared
        (make_students(a=(90, 20, 5.0), twin=(90, 20, 5.0)), ["a", "twin"]),
        ([], []),
    ],
)
def test_the_pareto_front_holds_those_that_no_other_dominates(students: list[dict], front: list[str]) -> None:
    assert find_pareto_front(students) == front


def test_the_pareto_front_equals_brute_force() -> None:
    """Sizes and latencies that are equal or a fifth apart, so that what counts as equal does not matter."""
    rng = np.random.default_rng(0)
    figures = np.column_stack([rng.normal(80, 5, 60), 1.2 ** rng.integers(0, 12, (60, 2))])
    good = figures * [1, -1, -1]
    on_front = [not any((other >= row).all() and (other > row).any() for other in good) for row in good]
    students = make_students(**{f"m{i}": tuple(row) for i, row in enumerate(figures)})
    assert sorted(find_pareto_front(students)) == sorted(f"m{i}" for i, stays in enumerate(on_front) if stays)
    assert 3 < sum(on_front) < 40


@pytest.mark.parametrize(
    ("limit", "model", "sentence"),
    [
        ({"latency_ms": 4.5}, "small", "the best score with latency_ms <= 4.5"),
        ({"params": 12_500_000}, "small", "params <= 1.25e+07"),
        ({"layer_params": 30_000_000}, "big", "score 90.00"),
        ({"bytes": 1}, None, "No student has bytes <= 1; nearest is small (bytes 4e+07)."),
        ({"retention": 0.8}, "small", "the smallest with retention >= 0.8"),
        ({"retention": 0.85}, "big", "the smallest with retention >= 0.85"),
        ({"retention": 0.95}, None, "nearest is big (retention 0.9)"),
        ({"retention": 0.7, "latency_ms": 2.5}, "quick", "latency_ms <= 2.5 and retention >= 0.7"),
    ],
)
def test_the_student_to_take(limit: dict, model: str | None, sentence: str) -> None:
    choice = pick_student(FIVE, Limit(**limit))
    assert choice.model == model and sentence in choice.sentence


def test_what_was_not_measured_is_not_within_a_limit() -> None:
    students = make_students(a=(90, 20, UNKNOWN))
    choice = pick_student(students, Limit(latency_ms=5))
    assert choice.model is None and "none has all these figures" in choice.sentence
    assert pick_student(students + make_students(b=(80, 20, 4.0)), Limit(latency_ms=5)).model == "b"
