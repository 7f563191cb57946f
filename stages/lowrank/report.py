"""What factorization cost: a table with a row per matrix, and a plot of the spectra."""

import re
from pathlib import Path

import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from stages.lowrank.decompose import decompose, output_error
from stages.lowrank.factorization import Factorization
from stages.settings import Factorize

COLUMNS = ["module", "rank", "dense", "parameters", "was", "output_error", "output_error_svd"]


def tabulate_ranks(result: Factorization) -> pd.DataFrame:
    """One row per matrix: rank, size, and the error of its output on the calibration text, plain SVD's beside it."""
    rows = []
    for name, rank in result.ranks.items():
        weight, statistics = result.weights[name], result.statistics[name]
        outputs, inputs = weight.shape
        row = {"module": name, "rank": rank or min(outputs, inputs), "dense": rank is None}
        row |= {"parameters": rank * (outputs + inputs) if rank else outputs * inputs, "was": outputs * inputs}
        row |= {"output_error": 0.0, "output_error_svd": 0.0}
        if rank:
            plain = decompose(weight, "svd", statistics).factors(rank)
            row["output_error"] = output_error(weight, result.factors[name], statistics)
            row["output_error_svd"] = output_error(weight, plain, statistics)
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def plot_spectra(result: Factorization, settings: Factorize, path: Path) -> None:
    """The error that each rank leaves: a panel per kind of matrix, a line per layer, a dot where it was cut."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    if result.spectra:
        _draw_panels(figure, result)
        figure.supylabel(f"relative error left ({settings.decomposition})")
        figure.suptitle(f"Singular spectra and the ranks chosen: budget {settings.budget:g}, {settings.rank_rule}")
    else:
        figure.text(0.5, 0.5, "nothing factorized", ha="center", color="gray")
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _draw_panels(figure: Figure, result: Factorization) -> None:
    kinds = list(dict.fromkeys(_strip_layer(name) for name in result.spectra))
    axes = figure.subplots(2, -(-len(kinds) // 2), sharey=True)
    for axis, kind in zip(axes.flat, kinds, strict=False):
        names = [name for name in result.spectra if _strip_layer(name) == kind]
        for i, name in enumerate(names):
            left = (1 - result.spectra[name].energy.cumsum(0)).clamp_min(1e-6).sqrt()
            color = colormaps["viridis"](i / max(1, len(names) - 1))
            axis.semilogy(range(1, len(left) + 1), left, color=color, lw=1, label=f"layer {i + 1}")
            if rank := result.ranks[name]:
                axis.plot(rank, left[rank - 1], "o", color=color, ms=4)
        axis.set(title=kind, xlabel="rank", ylim=(1e-3, 1.1))
    axes.flat[0].legend(fontsize=7)


def _strip_layer(name: str) -> str:
    """A matrix's name without its layer."""
    return re.split(r"\.\d+\.", name)[-1]
