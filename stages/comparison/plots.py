"""The comparison as pictures: score against size, latency and cost; bars; loss curves of every training."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from stages.comparison.collect import Model

STEP = 0.022
"""Distance of points that share a place, as a share of the axis."""
MARKERS = "osD^vP*X"


def scatter(table: "pd.DataFrame", titles: dict[str, str], x: str, label: str, unit: float, path: Path) -> None:
    """A panel per task: a point with its interval per model, the teacher's score as a line."""
    figure, axes = _panels(len(titles), (6.4, 4.2))
    styles = _styles(table)
    for axis, (task, title) in zip(axes, titles.items(), strict=True):
        rows = table[(table.task == task) & table[x].notna()]
        _points(axis, rows.assign(x=rows[x] / unit), styles)
        axis.set(title=title, xlabel=label)
    axes[0].set_ylabel("score (points, 95 % interval)")
    _save(figure, path)


def _points(axis: "Axes", rows: "pd.DataFrame", styles: dict[str, dict[str, Any]]) -> None:
    """Points of the same place stand side by side around it, the best at the left, over a bar that joins them."""
    if rows.empty:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color="gray")
        return
    step = STEP * rows.x.max()
    for _, group in rows.groupby(_clusters(rows.x, step)):
        ordered, middle = group.sort_values("score", ascending=False), group.x.mean()
        places = [middle + step * (k - (len(group) - 1) / 2) for k in range(len(group))]
        if len(group) > 1:
            bottom = [0, 1], axis.get_xaxis_transform()
            axis.plot([places[0], places[-1]], [0.012] * 2, transform=bottom[1], color="gray", lw=4, alpha=0.4)
        for row, place in zip(ordered.to_dict("records"), places, strict=True):
            bar = [[row["score"] - row["low"]], [row["high"] - row["score"]]]
            axis.errorbar(place, row["score"], yerr=bar, capsize=2, lw=1, ms=5, **styles[row["model"]])
    _teacher(axis.axhline, rows)
    axis.set_xlim(-0.04 * rows.x.max(), 1.12 * rows.x.max())
    axis.grid(alpha=0.3)
    _legend(axis, rows, styles)


def _clusters(places: "pd.Series", step: float) -> "pd.Series":
    """A number per point; those whose points would touch, from one to the next, share theirs."""
    return (places.sort_values().diff() > 0.6 * step).cumsum().reindex(places.index)


def _legend(axis: "Axes", rows: "pd.DataFrame", styles: dict[str, dict[str, Any]]) -> None:
    """Beside the panel, best score first."""
    from matplotlib.lines import Line2D

    ordered = rows.sort_values("score", ascending=False).to_dict("records")
    handles = [Line2D([], [], label=f"{row['score']:.1f}  {row['model']}", **styles[row["model"]]) for row in ordered]
    axis.legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def bars(table: "pd.DataFrame", titles: dict[str, str], path: Path) -> None:
    """A panel per task: a bar with its interval per student, best on top, the teacher as a line; from 0 on."""
    most = table[table.model != "teacher"].groupby("task").size().max()
    figure, axes = _panels(len(titles), (6.4, 1.4 + 0.32 * most))
    styles = _styles(table)
    for axis, (task, title) in zip(axes, titles.items(), strict=True):
        rows = table[(table.task == task) & (table.model != "teacher")].sort_values("score")
        spread = [rows.score - rows.low, rows.high - rows.score]
        colors = [styles[model]["color"] for model in rows.model]
        axis.barh(rows.model, rows.score, xerr=spread, color=colors, alpha=0.75, capsize=2, error_kw={"lw": 1})
        top = table[table.task == task].high.max()
        for place, row in enumerate(rows.to_dict("records")):
            axis.text(max(row["high"], 0) + 0.015 * top, place, f"{row['score']:.2f}", va="center", fontsize=8)
        _teacher(axis.axvline, table[table.task == task])
        axis.set(title=title, xlabel="score (points, 95 % interval)", xlim=(min(0, rows.low.min()), 1.13 * top))
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _teacher(line: Any, rows: "pd.DataFrame") -> None:
    for score in rows[rows.model == "teacher"].score:
        line(score, color="black", ls="--", lw=1, zorder=0)


def curves(found: "dict[str, list[Model]]", path: Path) -> None:
    """A panel per task and trained student: its loss terms over the steps, a line per seed."""
    import pandas as pd

    histories = {
        f"{task}: {model.name}": [pd.read_csv(file) for file in model.histories if file.is_file()]
        for task, models in found.items()
        for model in models
        if model.name != "teacher"
    }
    trained = {title: tables for title, tables in histories.items() if any(len(table) for table in tables)}
    figure, axes = _panels(max(1, len(trained)), (3.4, 2.7), across=4)
    if not trained:
        axes[0].text(0.5, 0.5, "nothing was trained", transform=axes[0].transAxes, ha="center", color="gray")
    terms = sorted({term for tables in trained.values() for table in tables for term in _terms(table)})
    for axis, (title, tables) in zip(axes, trained.items(), strict=False):
        for table in tables:
            for term in _terms(table):
                points = table[["step", term]].dropna()
                axis.plot(points.step, points[term], color=f"C{terms.index(term)}", lw=1, label=term)
        axis.set(title=title, yscale="log", xlabel="step")
        axis.grid(alpha=0.3)
    _shared_legend(figure, terms)
    _save(figure, path)


def _terms(history: "pd.DataFrame") -> list[str]:
    """The terms of the loss, unweighted; the loss itself where the training has no terms."""
    return [name for name in history if name.startswith("loss/")] or ["loss"]


def _shared_legend(figure: Any, terms: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=f"C{i}", label=term.removeprefix("loss/")) for i, term in enumerate(terms)]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=9)


def _styles(table: "pd.DataFrame") -> dict[str, dict[str, Any]]:
    """A color and a marker per model, the same in every panel and file; the teacher's is black."""
    students = [model for model in table.model.unique() if model != "teacher"]
    found = {m: {"color": f"C{i % 10}", "marker": MARKERS[i // 10 % 8], "ls": ""} for i, m in enumerate(students)}
    return found | {"teacher": {"color": "black", "marker": "s", "ls": ""}}


def _panels(count: int, size: tuple[float, float], across: int = 3) -> tuple[Any, list["Axes"]]:
    from matplotlib.figure import Figure

    columns = min(count, across)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=130, metadata={"Software": None})
