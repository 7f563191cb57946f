"""Which student to take: those that no other beats on every side, and the best within a limit."""

from dataclasses import dataclass
from typing import Any

from stages.settings import Limit

Row = dict[str, Any]
COLUMNS = {"params": "parameters", "layer_params": "layer_parameters", "bytes": "bytes", "latency_ms": "p50_ms"}
"""The table's column of each upper limit."""
SAME_SIZE, SAME_SPEED = 1.01, 1.05
"""Sizes and latencies within this factor count as equal: a budget is met within 1 %, and timings of one graph differ
by a few percent from run to run."""


@dataclass(frozen=True)
class Choice:
    """The student to take under a limit, None where none is within it; `sentence` says so to people."""

    model: str | None
    sentence: str


def find_pareto_front(students: list[Row]) -> list[str]:
    """The Pareto front (score up; parameters and latency down): students that no other student dominates, best first.

    One dominates another when it is at least as good in all three and better in one. Latency counts where both have
    one.
    """
    kept = [row for row in students if not any(_dominates(other, row) for other in students)]
    return [row["model"] for row in sorted(kept, key=lambda row: -row["score"])]


def _dominates(one: Row, other: Row) -> bool:
    better = one["score"] > other["score"]
    if one["score"] < other["score"]:
        return False
    for column, same in (("parameters", SAME_SIZE), ("p50_ms", SAME_SPEED)):
        mine, theirs = one[column], other[column]
        if mine > theirs * same:  # false where either is NaN
            return False
        better |= mine * same < theirs
    return better


def pick_student(students: list[Row], limit: Limit) -> Choice:
    """The student to take.

    With `retention`: the smallest within the limit, by parameters; sizes within 1 % are equal, and the best score
    decides. Without: the best score within the limit.
    """
    wanted = " and ".join(
        f"{name} {'>=' if name == 'retention' else '<='} {value:g}" for name, value in _list_limits(limit).items()
    )
    within = [row for row in students if _measure_excess(row, limit) <= 1]
    if not within:
        return Choice(None, f"No student has {wanted}; {_describe_nearest(students, limit)}.")
    why = "the best score"
    if limit.retention is not None:
        smallest = min(row["parameters"] for row in within)
        within = [row for row in within if row["parameters"] <= SAME_SIZE * smallest]
        why = "the smallest"
    best = max(within, key=lambda row: row["score"])
    figures = ", ".join(f"{name} {_round_figure(best, name):g}" for name in _list_limits(limit))
    return Choice(best["model"], f"Take {best['model']}: {why} with {wanted} (score {best['score']:.2f}, {figures}).")


def _list_limits(limit: Limit) -> dict[str, float]:
    return {name: value for name, value in limit.model_dump().items() if value is not None}


def _round_figure(row: Row, name: str) -> float:
    """The row's figure that a limit is on, to four digits."""
    value = row["retention"] / 100 if name == "retention" else row[COLUMNS[name]]
    return float(f"{value:.4g}")


def _measure_excess(row: Row, limit: Limit) -> float:
    """How many times the limit the row's worst figure is; at most 1 is within, infinite where one is not known."""
    worst = 0.0
    for name, value in _list_limits(limit).items():
        own = row["retention"] / 100 if name == "retention" else row[COLUMNS[name]]
        over = (value / own if own > 0 else float("inf")) if name == "retention" else own / value
        worst = max(worst, over if over == over else float("inf"))  # NaN is not itself
    return worst


def _describe_nearest(students: list[Row], limit: Limit) -> str:
    known = [row for row in students if _measure_excess(row, limit) < float("inf")]
    if not known:
        return "none has all these figures; what was not measured is left out of the table"
    row = min(known, key=lambda row: _measure_excess(row, limit))
    figures = ", ".join(f"{name} {_round_figure(row, name):g}" for name in _list_limits(limit))
    return f"nearest is {row['model']} ({figures})"
