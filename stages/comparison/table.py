"""The comparison for people: a table per task, and under it what to take from it."""

from math import nan
from typing import TYPE_CHECKING, Any

from stages.comparison.collect import cell_of
from stages.settings import Compare

if TYPE_CHECKING:
    import pandas as pd


def markdown(table: "pd.DataFrame", notes: dict[str, list[str]], settings: Compare) -> str:
    """A section per task, numbers rounded, the teacher first, then the best student.

    Args:
        notes: sentences under each task's table.
    """
    from tabulate import tabulate

    parts = []
    for task, rows in table.groupby("task", sort=False):
        ordered = rows.assign(first=rows.model == "teacher").sort_values(["first", "score"], ascending=False)
        lines = [_line(row, seeds=bool((table.seeds > 1).any())) for row in ordered.to_dict("records")]
        shown = tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)
        parts.append(f"### {task}\n\n{shown}\n\n" + "".join(f"{note}\n" for note in notes[task]))
    return "\n".join([*parts, f"{_legend(settings)}\n"])


def _line(row: dict[str, Any], seeds: bool) -> dict[str, str]:
    return {
        "model": row["model"],
        **({"seeds": str(row["seeds"])} if seeds else {}),
        "score": f"{row['score']:.2f}",
        "95 % interval": f"{row['low']:.2f} to {row['high']:.2f}",
        **({"perplexity": f"{row['perplexity']:.2f}"} if row.get("perplexity", nan) >= 1 else {}),
        "p (vs best)": _p(row["p"]),
        "retention": _number(row["retention"], "{:.1f} %"),
        "Pareto": "yes" if row["pareto"] else "",
        "layer parameters": _number(row["layer_parameters"], "{:.2f} M", 1e6),
        "parameters": _number(row["parameters"], "{:.2f} M", 1e6),
        "MACs/token": _number(row["macs_per_token"], "{:.2f} M", 1e6),
        "size": _number(row["bytes"], "{:.1f} MB", 1e6),
        "latency": _number(row["p50_ms"], "{:.2f} ms"),
        "speed-up": _number(row["speedup"], "{:.2f}x"),
        "training": _number(row["seconds"], "{:.0f} s"),
    }


def _p(value: float) -> str:
    return "< 0.01" if value < 0.01 else _number(value, "{:.2f}")


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None or value != value else form.format(value / unit)  # NaN is not itself


def _legend(settings: Compare) -> str:
    rivals = "" if settings.variant == "fp32" else " (rivals: fp32)"
    return (
        "p: paired bootstrap over the validation examples against the best student's mean over seeds; it speaks of the "
        "models that were trained, not of further seeds, and the best was chosen by the same scores. Pareto: no other "
        f"student is as good in score, parameters and latency and better in one. Latency: p50 of {cell_of(settings)}"
        f"{rivals}; speed-up over the teacher's fp32 graph, in turns."
    )
