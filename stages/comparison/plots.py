"""Plots of the comparison: score against size, latency and cost; bars; loss curves of every training."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

from stages.comparison.collect import ComparedModel

STEP = 0.016
"""Distance of points that share a place, as a share of the axis."""
MARKERS = "osD^vP*X"


def plot_scatter(table: pd.DataFrame, titles: dict[str, str], x: str, label: str, unit: float, path: Path) -> None:
    """A panel per task: a point with its interval per model, the teacher's score as a line."""
    figure, axes = _make_panels(len(titles), (6.4, 4.2))
    styles = _choose_styles(table)
    for axis, (task, title) in zip(axes, titles.items(), strict=True):
        rows = table[(table.task == task) & table[x].notna()]
        shared = _draw_points(axis, rows.assign(x=rows[x] / unit), styles)
        axis.set(title=title, xlabel=label + "\n(points over a gray bar: moved aside to be seen)" * shared)
    axes[0].set_ylabel("score (points, 95 % interval)")
    _save_figure(figure, path)


def _draw_points(axis: Axes, rows: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> bool:
    """Draws the points; returns whether any had to be moved aside."""
    if rows.empty:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color="gray")
        return False
    step = STEP * rows.x.max() or 1.0
    rows = rows.assign(place=(rows.x / step).round()).sort_values(["place", "score"], ascending=[True, False])
    places = spread_points(rows.x.tolist(), step)
    for row, place in zip(rows.to_dict("records"), places, strict=True):
        bar = [[row["score"] - row["low"]], [row["high"] - row["score"]]]
        axis.errorbar(place, row["score"], yerr=bar, capsize=2, lw=1, ms=5, **styles[row["model"]])
    touching = [[one, other] for one, other in pairwise(places) if other - one < 1.01 * step]
    for pair in touching:
        axis.plot(pair, [0.012] * 2, transform=axis.get_xaxis_transform(), color="darkgray", lw=4)
    _draw_teacher(axis.axhline, rows)
    axis.set_xlim(min(places[0] - step, -2 * step), 1.12 * rows.x.max() or None)
    axis.grid(alpha=0.3)
    _draw_legend(axis, rows, styles)
    return bool(touching)


def spread_points(places: list[float], step: float) -> list[float]:
    """The nearest places (least squares) in the same order that are `step` apart: a group fans out around its middle.

    With i steps taken off the i-th, they only have to ascend: isotonic regression.
    """
    taken = step * np.arange(len(places))
    return (isotonic_regression(np.array(places) - taken).x + taken).tolist()


def _draw_legend(axis: Axes, rows: pd.DataFrame, styles: dict[str, dict[str, Any]]) -> None:
    """Beside the panel, best score first."""
    ordered = rows.sort_values("score", ascending=False).to_dict("records")
    handles = [Line2D([], [], label=f"{row['score']:.1f}  {row['model']}", **styles[row["model"]]) for row in ordered]
    axis.legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def plot_bars(table: pd.DataFrame, titles: dict[str, str], path: Path) -> None:
    """A panel per task: a bar with its interval per student, best on top, the teacher as a line; from 0 on."""
    most = table.groupby("task").size().max()
    figure, axes = _make_panels(len(titles), (6.4, 1.2 + 0.3 * most))
    styles = _choose_styles(table)
    for axis, (task, title) in zip(axes, titles.items(), strict=True):
        rows = table[(table.task == task) & (table.model != "teacher")].sort_values("score")
        spread = [rows.score - rows.low, rows.high - rows.score]
        colors = [styles[model]["color"] for model in rows.model]
        axis.barh(rows.model, rows.score, xerr=spread, color=colors, alpha=0.75, capsize=2, error_kw={"lw": 1})
        top = table[table.task == task].high.max()
        for place, row in enumerate(rows.to_dict("records")):
            axis.text(0.01 * top, place, f"{row['score']:.2f}", va="center", fontsize=8)
        _draw_teacher(axis.axvline, table[table.task == task])
        axis.set(title=title, xlabel="score (points, 95 % interval)", xlim=(min(0, rows.low.min()), 1.03 * top))
        axis.spines[["top", "right"]].set_visible(False)
    _save_figure(figure, path)


def _draw_teacher(line: Any, rows: pd.DataFrame) -> None:
    for score in rows[rows.model == "teacher"].score:
        line(score, color="black", ls="--", lw=1, zorder=0)


def plot_loss_curves(models_of: dict[str, list[ComparedModel]], path: Path) -> None:
    """A panel per task and trained student: its loss terms over the steps, a line per seed."""
    histories = {
        f"{task}: {model.name}": [pd.read_csv(file) for file in model.histories if file.is_file()]
        for task, models in models_of.items()
        for model in models
    }
    trained = {title: tables for title, tables in histories.items() if any(len(table) for table in tables)}
    figure, axes = _make_panels(max(1, len(trained)), (3.2, 2.5), across=4, sharey=True)
    if not trained:
        axes[0].text(0.5, 0.5, "nothing was trained", transform=axes[0].transAxes, ha="center", color="gray")
    terms = sorted({term for tables in trained.values() for table in tables for term in _list_terms(table)})
    for axis, (title, tables) in zip(axes, trained.items(), strict=False):
        for table in tables:
            for term in _list_terms(table):
                points = table[["step", term]].dropna()
                axis.plot(points.step, points[term], color=f"C{terms.index(term)}", lw=1, label=term)
        axis.set(title=title, yscale="log", xlabel="step")
        axis.grid(alpha=0.3)
    _draw_shared_legend(figure, terms)
    _save_figure(figure, path)


def _list_terms(history: pd.DataFrame) -> list[str]:
    """The terms of the loss, unweighted; the loss itself where the training has no terms."""
    return [name for name in history if name.startswith("loss/")] or ["loss"]


def _draw_shared_legend(figure: Any, terms: list[str]) -> None:
    handles = [Line2D([], [], color=f"C{i}", label=term.removeprefix("loss/")) for i, term in enumerate(terms)]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=9)


def _choose_styles(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A color and a marker per model, the same in every panel and file; the teacher's is black."""
    students = [model for model in table.model.unique() if model != "teacher"]
    styles = {
        model: {"color": colormaps["tab20"]((2 * i + i // 10) % 20), "marker": MARKERS[i // 10 % 8], "ls": ""}
        for i, model in enumerate(students)
    }
    return styles | {"teacher": {"color": "black", "marker": "s", "ls": ""}}


def _make_panels(count: int, size: tuple[float, float], across: int = 3, **shared: bool) -> tuple[Any, list[Axes]]:
    columns = min(count, across)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def _save_figure(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=130, metadata={"Software": None})
