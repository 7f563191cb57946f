"""What happened while a model was pruned, as pictures."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from stages.pruning.compact import Axis


def discrepancy(history: Path, path: Path) -> None:
    """How far the student is from its teacher while it shrinks."""
    import pandas as pd
    from matplotlib.figure import Figure

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


def gone(steps: "dict[Axis, Tensor]", path: Path) -> None:
    """Which dimension of which layer went when: a panel per group, a row per layer; white ones stayed.

    Args:
        steps: axis -> the step at which each dimension went, 0 for one that stayed.
    """
    import numpy as np
    from matplotlib.figure import Figure

    if not steps:  # cut at once
        return _nothing(path)
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
    figure.colorbar(image, ax=list(panels), label="step at which it went")
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _nothing(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 1), layout="constrained")
    figure.text(0.5, 0.5, "nothing went while it was trained", ha="center", color="gray")
    figure.savefig(path, dpi=130, metadata={"Software": None})
