"""Latency against rate, as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = {"p50_ms": "p50", "p90_ms": "p90", "p99_ms": "p99", "p999_ms": "p99.9"}


def plot_latency(found: dict[str, Any], path: Path) -> None:
    """Left the open loop, by the rate asked for; right the closed loop, by the rate that its clients got."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    runs = [run for run in found["runs"] if "p50_ms" in run]
    _lines(left, sorted((run for run in runs if run["loop"] == "open"), key=lambda run: run["rate"]), "rate")
    closed = [run for run in runs if run["loop"] == "closed"]
    _lines(right, closed, "per_second")
    for run in closed:
        right.annotate(
            run["clients"], (run["per_second"], run["p50_ms"]), (0, -14), textcoords="offset points", ha="center"
        )
    if "saturation" in found:
        left.axvline(found["saturation"], color="gray", linestyle="--", label="saturation")
    settings = found["settings"]
    left.set(title=f"open loop, {settings['arrivals']} arrivals", xlabel="requests per second, asked for")
    left.set_ylabel("latency from when a request was due, ms")
    right.set(title="closed loop, by the number of clients", xlabel="requests per second, answered")
    left.legend(frameon=False)
    figure.suptitle(f"{settings['url']}, {settings['api']}, {settings['batch']} text(s) a request")
    figure.savefig(path, dpi=120)


def _lines(axes: "Axes", runs: list[dict[str, Any]], across: str) -> None:
    from matplotlib.ticker import LogLocator

    for name, label in SHOWN.items():
        axes.plot([run[across] for run in runs], [run[name] for run in runs], marker="o", markersize=4, label=label)
    axes.set_yscale("log", subs=[])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(left=0)
    axes.margins(y=0.1)
    axes.grid(True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
