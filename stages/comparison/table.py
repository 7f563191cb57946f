"""The comparison for people: a table per task, and under it the Pareto front and the student to take."""

from math import nan
from typing import Any

import pandas as pd
from tabulate import tabulate

from stages.comparison.collect import describe_cell
from stages.settings import Compare


def format_table(table: pd.DataFrame, notes: dict[str, list[str]], settings: Compare) -> str:
    """A section per task, numbers rounded, the teacher first, then the best student.

    Args:
        notes: sentences under each task's table.
    """
    parts = []
    for task, rows in table.groupby("task", sort=False):
        ordered = rows.assign(first=rows.model == "teacher").sort_values(["first", "score"], ascending=False)
        lines = [_format_row(row, seeds=bool((table.seeds > 1).any())) for row in ordered.to_dict("records")]
        shown = tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)
        parts.append(f"### {task}\n\n{shown}\n\n" + "".join(f"{note}\n" for note in notes[task]))
    return "\n".join([*parts, f"{_legend(settings)}\n"])


def _format_row(row: dict[str, Any], seeds: bool) -> dict[str, str]:
    return {
        "model": row["model"],
        **({"seeds": str(row["seeds"])} if seeds else {}),
        "score": f"{row['score']:.2f}",
        "95 % interval": f"{row['low']:.2f} to {row['high']:.2f}",
        **({"perplexity": f"{row['perplexity']:.2f}"} if row.get("perplexity", nan) >= 1 else {}),
        "p (vs best)": _format_p(row["p"]),
        "retention": _format_number(row["retention"], "{:.1f} %"),
        "Pareto": "yes" if row["pareto"] else "",
        "layer parameters": _format_number(row["layer_parameters"], "{:.2f} M", 1e6),
        "parameters": _format_number(row["parameters"], "{:.2f} M", 1e6),
        "MACs/token": _format_number(row["macs_per_token"], "{:.2f} M", 1e6),
        "size": _format_number(row["bytes"], "{:.1f} MB", 1e6),
        "latency": _format_number(row["p50_ms"], "{:.2f} ms"),
        "speed-up": _format_number(row["speedup"], "{:.2f}x"),
        "training": _format_number(row["seconds"], "{:.0f} s"),
    }


def _format_p(value: float) -> str:
    return "< 0.01" if value < 0.01 else _format_number(value, "{:.2f}")


def _format_number(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None or value != value else form.format(value / unit)  # NaN is not itself


def _legend(settings: Compare) -> str:
    baselines = "" if settings.variant == "fp32" else " (baselines: fp32)"
    return (
        "p: paired bootstrap over the validation examples against the best student's mean over seeds; it speaks of the "
        "models that were trained, not of further seeds, and the best was chosen by the same scores. Pareto: no other "
        f"student is as good in score, parameters and latency and better in one. Latency: p50 of "
        f"{describe_cell(settings)}{baselines}; speed-up over the teacher's fp32 graph, in turns."
    )
