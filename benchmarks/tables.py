"""Rows of benchmarks.budgets in; Markdown tables and plots out.

A row is one model of one seed, as its CSV has it: task, seed, budget, recipe, then figures.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rows import Row

if TYPE_CHECKING:
    import pandas as pd

TEXT_COLUMNS = ("task", "recipe")


def format_scores(rows: list[Row], measures: list[str] | None = None) -> str:
    """A row per budget and recipe, mean ± standard deviation over seeds; within a budget by the first task's retention,
    the best first.

    Args:
        measures: columns of the rows, each of which is a column here; without them a column per task: the score, in
            brackets the retention.
    """
    from tabulate import tabulate

    frame = make_frame(rows)
    tasks = frame["task"].unique()
    lines: list[tuple[tuple[float, float], dict[str, str]]] = []
    for _, group in frame.groupby(["budget", "recipe"], sort=False):
        budget, recipe = float(group["budget"].iloc[0]), str(group["recipe"].iloc[0])
        retention = float(group[group["task"] == tasks[0]]["retention"].mean())
        line = {"budget": f"{budget:g}", "student": recipe}
        for task in tasks:
            seeds = group[group["task"] == task]
            if measures:
                line |= {m if len(tasks) == 1 else f"{task} {m}": format_mean(seeds[m], digits=2) for m in measures}
            else:
                line[task] = format_score(seeds)
        lines.append(((-budget, -retention), line))
    ordered = sorted(lines, key=lambda ranked: ranked[0])
    return tabulate([line for _, line in ordered], headers="keys", tablefmt="github", disable_numparse=True)


def format_changes(rows: list[Row], measures: list[str], added: str) -> str:
    """What `added` changes: recipes `<x>_<added>` less `<x>` of the same task, budget and seed; mean ± standard
    deviation.

    A row per recipe x, in the order of the rows.
    """
    from tabulate import tabulate

    lines = [
        {"student": recipe} | {m: format_mean((changed - plain)[m], "+", digits=2) for m in measures}
        for recipe, plain, changed in pair_recipes(rows, measures, added)
    ]
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def pair_recipes(
    rows: list[Row], measures: list[str], added: str
) -> Iterator[tuple[str, "pd.DataFrame", "pd.DataFrame"]]:
    """Recipe x, its measures, and those of `<x>_<added>`, by task, budget and seed; those that both have."""
    frame = make_frame(rows).set_index(["task", "budget", "seed", "recipe"])[measures]
    names = frame.index.unique("recipe")
    for name in [name for name in names if f"{name}_{added}" in names]:
        plain, changed = (select_recipe(frame, recipe) for recipe in (name, f"{name}_{added}"))
        both = plain.index.intersection(changed.index)
        if len(both):
            yield name, plain.loc[both], changed.loc[both]


def select_recipe(frame: "pd.DataFrame", recipe: str) -> "pd.DataFrame":
    """A recipe's rows of a frame that is indexed by it among others, which remain."""
    return frame[frame.index.get_level_values("recipe") == recipe].droplevel("recipe")


def make_frame(rows: list[Row]) -> "pd.DataFrame":
    """The rows with numbers as numbers."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    numbers = frame.columns.difference(list(TEXT_COLUMNS))
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    return frame


def format_score(seeds: "pd.DataFrame") -> str:
    """The mean score, in brackets the mean retention, which students have."""
    retention = f" ({seeds['retention'].mean():.1f} %)" if seeds["retention"].notna().any() else ""
    return f"{format_mean(seeds['score'])}{retention}"


def format_mean(values: "pd.Series", sign: str = "", digits: int = 1) -> str:
    """Mean and, of several, standard deviation; empty without values."""
    values = values.dropna()
    if values.empty:
        return ""
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.{digits}f}{spread}"


def plot_scores(rows: list[Row], path: Path) -> None:
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


def plot_changes(rows: list[Row], measures: list[str], added: str, path: Path) -> None:
    """What `added` changes, as arrows between means over seeds: a panel for each measure, against the first one."""
    from matplotlib.figure import Figure

    (across, *others) = measures
    figure = Figure(figsize=(4.6 * len(others), 3.8), layout="constrained")
    for axis, measure in zip(figure.subplots(1, len(others), squeeze=False)[0], others, strict=True):
        for i, (recipe, plain, changed) in enumerate(pair_recipes(rows, measures, added)):
            start, end = (each.mean()[[across, measure]] for each in (plain, changed))
            axis.plot(*start, marker="o", color=f"C{i}", label=recipe)
            axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": f"C{i}"})
            axis.update_datalim([end])
        axis.autoscale_view()
        axis.set(xlabel=across, ylabel=measure)
    figure.axes[0].legend(fontsize=8, title=f"arrow: with {added}")
    figure.savefig(path, dpi=130, metadata={"Software": None})
