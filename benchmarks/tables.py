"""Rows of benchmarks.budgets in; Markdown tables and a plot out.

A row is one model of one seed, as its CSV has it: task, seed, budget, recipe, then figures.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("task", "recipe")


def table(rows: list[dict], measures: list[str] | None = None) -> str:
    """A row per budget and recipe, mean ± standard deviation over seeds; within a budget by the first task's retention,
    the best first.

    Args:
        measures: columns of the rows, each of which is a column here; without them a column per task: the score, in
            brackets what is kept of the teacher's.
    """
    from tabulate import tabulate

    frame = _frame(rows)
    tasks = frame["task"].unique()
    lines = []
    for (budget, recipe), group in frame.groupby(["budget", "recipe"], sort=False):
        kept = group[group["task"] == tasks[0]]["retention"].mean()
        line = {"budget": f"{budget:g}", "kept": kept, "student": recipe}
        for task in tasks:
            found = group[group["task"] == task]
            if measures:
                line |= {m if len(tasks) == 1 else f"{task} {m}": _spread(found[m], digits=2) for m in measures}
            else:
                line[task] = _score(found)
        lines.append(line)
    lines.sort(key=lambda line: (-float(line["budget"]), -line.pop("kept")))
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def changes(rows: list[dict], measures: list[str], added: str) -> str:
    """What `added` does: recipes `<x>_<added>` less `<x>` of the same task, budget and seed; mean ± standard deviation.

    A row per recipe x, in the order of the rows.
    """
    from tabulate import tabulate

    lines = [
        {"student": recipe} | {m: _spread((more - less)[m], "+", digits=2) for m in measures}
        for recipe, less, more in _pairs(rows, measures, added)
    ]
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def _pairs(rows: list[dict], measures: list[str], added: str) -> Iterator[tuple[str, "pd.DataFrame", "pd.DataFrame"]]:
    """Recipe x, its measures, and those of `<x>_<added>`, by task, budget and seed; those that both have."""
    frame = _frame(rows).set_index(["task", "budget", "seed", "recipe"])[measures]
    names = frame.index.unique("recipe")
    for name in [name for name in names if f"{name}_{added}" in names]:
        less, more = (frame.xs(recipe, level="recipe") for recipe in (name, f"{name}_{added}"))
        both = less.index.intersection(more.index)
        if len(both):
            yield name, less.loc[both], more.loc[both]


def _frame(rows: list[dict]) -> "pd.DataFrame":
    import pandas as pd

    frame = pd.DataFrame(rows)
    numbers = frame.columns.difference(NAMES)
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    return frame


def _score(found: "pd.DataFrame") -> str:
    kept = f" ({found['retention'].mean():.1f} %)" if found["retention"].notna().any() else ""
    return f"{_spread(found['score'])}{kept}"


def _spread(values: "pd.Series", sign: str = "", digits: int = 1) -> str:
    """Mean and, of several, standard deviation; empty where there are none."""
    values = values.dropna()
    if values.empty:
        return ""
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.{digits}f}{spread}"


def plot(rows: list[dict], path: Path) -> None:
    """Score against budget: a panel per task, a line per recipe (mean over seeds), the teacher as a level."""
    import pandas as pd
    from matplotlib.figure import Figure

    frame = pd.DataFrame(rows).astype({"budget": float, "score": float})
    tasks = list(frame["task"].unique())
    colors = {recipe: f"C{i}" for i, recipe in enumerate(r for r in frame["recipe"].unique() if r != "teacher")}
    figure = Figure(figsize=(4.6 * len(tasks), 3.8), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        means = frame[frame["task"] == task].groupby(["recipe", "budget"], sort=False)["score"].mean()
        axis.axhline(means["teacher"].iloc[0], color="gray", ls="--", label="teacher")
        for recipe in [r for r in means.index.unique("recipe") if r != "teacher"]:
            line = means[recipe].sort_index()
            axis.plot(line.index, line, marker="o", color=colors[recipe], label=recipe)
        axis.set(title=task, xlabel="budget (share of layer parameters)", xlim=(0, None))
    figure.axes[0].set_ylabel("score, points")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def plot_changes(rows: list[dict], measures: list[str], added: str, path: Path) -> None:
    """What `added` does, as arrows between means over seeds: a panel for each measure, against the first one."""
    from matplotlib.figure import Figure

    (across, *up) = measures
    figure = Figure(figsize=(4.6 * len(up), 3.8), layout="constrained")
    for axis, measure in zip(figure.subplots(1, len(up), squeeze=False)[0], up, strict=True):
        for i, (recipe, less, more) in enumerate(_pairs(rows, measures, added)):
            start, end = (each.mean()[[across, measure]] for each in (less, more))
            axis.plot(*start, marker="o", color=f"C{i}", label=recipe)
            axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": f"C{i}"})
            axis.update_datalim([end])
        axis.autoscale_view()
        axis.set(xlabel=across, ylabel=measure)
    figure.axes[0].legend(fontsize=8, title=f"arrow: with {added}")
    figure.savefig(path, dpi=130, metadata={"Software": None})
