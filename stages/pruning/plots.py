"""Plots of a pruning: the distance from the teacher, and which dimensions were removed when."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from stages.pruning.compact import Axis


def plot_discrepancy(history: Path, path: Path) -> None:
    """The student's distance from its teacher while it shrinks."""
    table = pd.read_csv(history)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for column, label, marker in (("loss/kl", "training", ""), ("validation/discrepancy", "validation", "o")):
        if column in table:
            points = table[["step", column]].dropna()
            axes.plot(points["step"], points[column], marker=marker, label=label)
    axes.set(xlabel="step", ylabel="KL(teacher, student), nats per token", ylim=(0, None))
    axes.legend(loc="upper left")
    if "kept/residual" in table:
        kept, points = axes.twinx(), table[["step", "kept/residual"]].dropna()
        kept.plot(points["step"], points["kept/residual"], color="gray", ls="--")
        kept.set(ylabel="share of the width (dashed)", ylim=(0, 1.02))
    figure.savefig(path, dpi=130, metadata={"Software": None})


def plot_removals(steps: dict[Axis, Tensor], path: Path) -> None:
    """When each dimension of each layer was removed: a panel per group, a row per layer; white ones remain.

    Args:
        steps: axis -> the step at which each dimension was removed, 0 for one that remains.
    """
    if not steps:  # cut at once
        return _plot_nothing(path)
    last = max(float(each.max()) for each in steps.values())
    groups: dict[str, list[np.ndarray]] = {}
    for (group, _), each in steps.items():
        groups.setdefault(group, []).append(np.where(each.cpu() > 0, each.cpu(), np.nan))
    heights = [2 + len(rows) for rows in groups.values()]
    figure = Figure(figsize=(9, 0.5 + 0.45 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (group, rows) in zip(panels, groups.items(), strict=True):
        image = axes.imshow(np.stack(rows), aspect="auto", interpolation="none", cmap="viridis", vmin=0, vmax=last)
        axes.set(title=group, ylabel="layer", xlabel="dimension")
        axes.set_yticks(range(len(rows)), [str(i + 1) for i in range(len(rows))] if len(rows) > 1 else ["all"])
    figure.colorbar(image, ax=list(panels), label="step of the removal")
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _plot_nothing(path: Path) -> None:
    figure = Figure(figsize=(4, 1), layout="constrained")
    figure.text(0.5, 0.5, "nothing was removed during the training", ha="center", color="gray")
    figure.savefig(path, dpi=130, metadata={"Software": None})
