"""Every score in; one table and two plots out.

Collects what `evaluate`, `baseline` and `benchmark` found for each task: teacher, student and rivals side by
side, score (with its 95 % interval) against size and against latency. What has not been run is left out, with
a note.

    python -m stages.compare
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import OUTPUTS, command
from stages.settings import BadInput, Compare

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from stages.tasks import Task
    from stages.tracking import Run

SIZES = ["layer_parameters", "parameters", "macs_per_token", "bytes"]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The folders of the verbs whose metrics are read: `<verb>/<task>[/<recipe>]/metrics.json`."""

    evaluate: Path
    baseline: Path
    benchmark: Path


def compare(
    settings: Compare,
    *,
    tasks: dict[str, "Task"],
    recipes: list[str],
    sources: Sources,
    output: Path,
    run: "Run",
) -> "pd.DataFrame":
    """Writes `table.csv`, `table.md`, `score_size.png`, `score_latency.png` and `metrics.json`.

    Returns:
        One row per task and model: score and interval (points), retention (%), sizes (counts, bytes), p50
        latency (milliseconds) and speed-up over the teacher where it was measured.

    Raises:
        BadInput: nothing has been evaluated yet.
    """
    import pandas as pd

    table = pd.DataFrame([row for name in tasks for row in _rows(settings, name, recipes, sources)])
    if table.empty:
        raise BadInput(f"{sources.evaluate} holds no scores of {', '.join(tasks)}; run `dvc repro evaluate` first")
    table.to_csv(output / "table.csv", index=False)
    text = markdown(table, settings)
    (output / "table.md").write_text(text, encoding="utf8")
    metrics = {name: _summary(table[table.task == name]) for name in table.task.unique()}
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf8")
    titles = {name: f"{name}: {task.metrics[0]}" for name, task in tasks.items()}
    _plot(table, titles, "layer_parameters", "layer parameters (millions)", 1e6, output / "score_size.png")
    _plot(table, titles, "p50_ms", f"p50 latency (ms), {_cell(settings)}", 1, output / "score_latency.png")
    run.metrics({f"{t}/{k}": v for t, row in metrics.items() for k, v in row.items() if isinstance(v, float)})
    print(text)
    return table


def _rows(settings: Compare, task: str, recipes: list[str], sources: Sources) -> list[dict[str, Any]]:
    scored = _read(sources.evaluate / task)
    for recipe in recipes:
        if found := _read(sources.baseline / task / recipe):
            scored[recipe] = found["student"]
    measured = _read(sources.benchmark / task)
    cells = [c for c in measured.get("cells", []) if _wanted(c, settings)]
    latency = {cell["model"]: cell["p50_ms"] for cell in cells}
    if measured and not latency:
        print(f"compare: {task} has no latency for {_cell(settings)}; benchmark measures, compare names it")
    return [_row(task, model, found, latency) for model, found in scored.items()]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf8"))
    print(f"compare: {path} does not exist and is left out")
    return {}


def _wanted(cell: dict[str, Any], settings: Compare) -> bool:
    variant = "fp32" if cell["model"] == "teacher" else settings.variant
    here = (cell["variant"], str(cell["length"]), cell["batch_size"])
    return here == (variant, str(settings.length), settings.batch_size)


def _cell(settings: Compare) -> str:
    return f"{settings.variant}, length {settings.length}, batch {settings.batch_size}"


def _row(task: str, model: str, found: dict[str, Any], latency: dict[str, float]) -> dict[str, Any]:
    low, high = found["interval"]
    row = {"task": task, "model": model, "score": found["score"], "low": low, "high": high}
    row["retention"] = 100.0 if model == "teacher" else found.get("retention")
    row |= {name: found.get(name) for name in SIZES} | {"p50_ms": latency.get(model)}
    row["speedup"] = latency["teacher"] / latency[model] if {"teacher", model} <= latency.keys() else None
    return row


def _summary(rows: "pd.DataFrame") -> dict[str, Any]:
    """The student's retention (%), the best rival, and how many points the student lies above it."""
    scores = rows.set_index("model")["score"]
    summary: dict[str, Any] = {}
    if "student" in scores:
        summary["retention"] = float(rows.set_index("model")["retention"]["student"])
    rivals = scores.drop(["teacher", "student"], errors="ignore")
    if len(rivals) and "student" in scores:
        best = rivals.idxmax()
        summary |= {"best_baseline": best, "margin": float(scores["student"] - rivals[best])}
    return summary


def markdown(table: "pd.DataFrame", settings: Compare) -> str:
    """The table for people: a section per task, numbers rounded, the teacher first, then the best student."""
    from tabulate import tabulate

    parts = []
    for task, rows in table.groupby("task", sort=False):
        ordered = rows.assign(first=rows.model == "teacher").sort_values(["first", "score"], ascending=False)
        lines = [_line(row) for row in ordered.to_dict("records")]
        parts.append(f"### {task}\n\n{tabulate(lines, headers='keys', tablefmt='github', disable_numparse=True)}\n")
    return "\n".join([*parts, f"Latency: p50 of {_cell(settings)}; speed-up over the teacher's fp32 graph.\n"])


def _line(row: dict[str, Any]) -> dict[str, str]:
    return {
        "model": row["model"],
        "score": f"{row['score']:.2f}",
        "95 % interval": f"{row['low']:.2f} to {row['high']:.2f}",
        "retention": _number(row["retention"], "{:.1f} %"),
        "layer parameters": _number(row["layer_parameters"], "{:.2f} M", 1e6),
        "parameters": _number(row["parameters"], "{:.2f} M", 1e6),
        "MACs/token": _number(row["macs_per_token"], "{:.2f} M", 1e6),
        "size": _number(row["bytes"], "{:.1f} MB", 1e6),
        "latency": _number(row["p50_ms"], "{:.2f} ms"),
        "speed-up": _number(row["speedup"], "{:.2f}x"),
    }


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None or value != value else form.format(value / unit)  # NaN is not itself


def _plot(table: "pd.DataFrame", titles: dict[str, str], x: str, label: str, unit: float, path: Path) -> None:
    """A panel per task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(table.task.unique())
    size = (1 + 4.5 * len(names), 4.2)
    figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, layout="constrained")
    colors = {model: f"C{i}" for i, model in enumerate(table.model.unique())}
    for axis, name in zip(axes.flat, names, strict=True):
        _panel(axis, table[(table.task == name) & table[x].notna()], x, unit, colors)
        axis.set(title=titles[name], xlabel=label)
    axes.flat[0].set_ylabel("score (points, 95 % interval)")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def _panel(axis: "Axes", rows: "pd.DataFrame", x: str, unit: float, colors: dict[str, str]) -> None:
    """A point with its interval per model; those of the same size a hair apart, so that all are seen."""
    if rows.empty:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color="gray")
        return
    places, widest = rows[x] / unit, rows[x].max() / unit
    apart = 0.015 * widest * places.groupby((places / widest).round(2)).cumcount()
    for row, place in zip(rows.to_dict("records"), places + apart, strict=True):
        bar = [[row["score"] - row["low"]], [row["high"] - row["score"]]]
        point = {"fmt": "o", "ms": 5, "capsize": 3, "lw": 1, "color": colors[row["model"]]}
        axis.errorbar(place, row["score"], yerr=bar, label=row["model"], **point)
    axis.set_xlim(0, 1.1 * widest)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


if __name__ == "__main__":
    with command(Compare, __doc__) as job:
        compare(
            job.params.compare,
            tasks={name: job.params.task(name) for name in job.params.tasks},
            recipes=job.params.baseline.recipes,
            sources=Sources(
                evaluate=OUTPUTS / "evaluate", baseline=OUTPUTS / "baseline", benchmark=OUTPUTS / "benchmark"
            ),
            output=job.output,
            run=job.run,
        )
