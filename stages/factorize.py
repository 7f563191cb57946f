"""The teacher in; a low-rank student of the wanted size, its rank table and its spectra out.

Calibration text says which directions each matrix is used in; an SVD in that norm gives every matrix's factors; the
budget is dealt out as ranks; each matrix W becomes two thin ones, A B. Nothing is trained here.

    python -m stages.factorize --task sst2
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from stages.command import command
from stages.settings import BadInput, Factorize

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from stages.lowrank.decompose import Decomposition, Statistics
    from stages.lowrank.ranks import Matrix
    from stages.tracking import Run


def factorize(settings: Factorize, *, data: Path, teacher: Path, output: Path, seed: int, run: "Run") -> dict:
    """Writes `model/`, `ranks.csv`, `spectra.png` and `metrics.json`; returns the metrics.

    Raises:
        BadInput: the budget cannot be met.
    """
    from tqdm import tqdm
    from transformers import AutoTokenizer

    from stages.lowrank.decompose import decompose, shift
    from stages.lowrank.modeling import assemble
    from stages.models.anatomy import Parts
    from stages.models.base import load

    model, tokenizer = load(teacher), AutoTokenizer.from_pretrained(teacher)
    parts = Parts(model)
    names = parts.matrix_names()
    statistics = _statistics(settings, model, tokenizer, names, data, seed)
    weights = {name: model.get_submodule(name).weight for name in names}
    spectra = {
        name: decompose(weights[name], settings.decomposition, statistics[name])
        for name in tqdm(names, desc=f"factorize: {settings.decomposition}", unit="matrix")
    }
    ranks = _ranks(settings, model, parts, spectra)
    factors = {name: spectra[name].factors(rank) for name, rank in ranks.items() if rank}
    table = _table(weights, spectra, ranks, factors, statistics)
    shifts = {
        name: shift(weights[name], pair, statistics[name])
        for name, pair in factors.items()
        if settings.decomposition == "whitened" and statistics[name].mean is not None
    }
    if settings.embeddings:
        factors[parts.words_at] = _embedding(parts.words, settings.embeddings)
    student = assemble(model, factors, "AutoModelForSequenceClassification", shifts)
    student.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")

    metrics = _metrics(model, student, table)
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    table.to_csv(output / "ranks.csv", index=False)
    _plot(spectra, ranks, settings, output / "spectra.png")
    run.metrics(metrics)
    return metrics


def _statistics(settings, model, tokenizer, names, data, seed) -> "dict[str, Statistics]":
    from stages.lowrank.calibrate import calibrate
    from stages.tasks.batches import batches
    from stages.tasks.splits import read_split

    train = read_split(data, "train").shuffle(seed=seed)
    train = train.select(range(min(settings.calibration.examples, len(train))))
    stream = (b for _, b in batches(train, tokenizer, settings.calibration.batch_size, "factorize: calibration"))
    return calibrate(model, names, stream, fisher=settings.decomposition == "fisher")


def _ranks(settings, model, parts, spectra: "dict[str, Decomposition]") -> dict[str, int | None]:
    """Deals the budget out, after what cannot be factorized (biases, norms, and with `count: all` the rest) is paid."""
    from stages.lowrank.ranks import allocate

    matrices = [_matrix(name, spectrum) for name, spectrum in spectra.items()]
    words = parts.words.weight
    if settings.embeddings and not 0 < settings.embeddings * sum(words.shape) < words.numel():
        raise BadInput(
            f"factorize.embeddings {settings.embeddings} saves nothing on a {tuple(words.shape)} embedding; "
            f"use less than {words.numel() // sum(words.shape)}"
        )
    whole = parts.layer_parameters() if settings.count == "layers" else model.num_parameters()
    fixed = whole - sum(m.dense for m in matrices)
    if settings.count == "all" and settings.embeddings:
        fixed += settings.embeddings * sum(words.shape) - words.numel()
    budget = int(settings.budget * whole) - fixed
    if budget <= 0:
        raise BadInput(
            f"factorize.budget {settings.budget} of {whole:,} parameters is less than the {fixed:,} that cannot be "
            f"factorized; raise it above {fixed / whole:.2f}"
            + (" or set factorize.embeddings" * (settings.count == "all"))
        )
    return allocate(matrices, budget, settings.rank_rule, settings.multiple_of)


def _matrix(name: str, spectrum: "Decomposition") -> "Matrix":
    from stages.lowrank.ranks import Matrix

    return Matrix(name=name, outputs=spectrum.u.shape[0], inputs=spectrum.v.shape[1], energy=spectrum.energy.tolist())


def _embedding(words: "nn.Embedding", rank: int):
    """Plain SVD of the word embedding: (words, rank) and (rank, width)."""
    import torch

    from stages.lowrank.decompose import Statistics, decompose

    moment = torch.eye(words.weight.shape[1], dtype=torch.float64)
    return decompose(words.weight, "svd", Statistics(inputs=moment)).factors(rank)


def _table(weights, spectra, ranks, factors, statistics):
    """One row per matrix: rank, size, and the error of its output on the calibration text, plain SVD's beside it."""
    import pandas as pd

    from stages.lowrank.decompose import decompose, output_error

    rows = []
    for name, rank in ranks.items():
        outputs, inputs = weights[name].shape
        row = {"module": name, "rank": rank or min(outputs, inputs), "dense": rank is None}
        row |= {"parameters": rank * (outputs + inputs) if rank else outputs * inputs, "was": outputs * inputs}
        row |= {"output_error": 0.0, "output_error_svd": 0.0}
        if rank:
            plain = decompose(weights[name], "svd", statistics[name]).factors(rank)
            row["output_error"] = output_error(weights[name], factors[name], statistics[name])
            row["output_error_svd"] = output_error(weights[name], plain, statistics[name])
        rows.append(row)
    return pd.DataFrame(rows)


def _metrics(teacher: "PreTrainedModel", student: "PreTrainedModel", table) -> dict:
    from stages.models.anatomy import Parts

    before, after = Parts(teacher).layer_parameters(), Parts(student).layer_parameters()
    return {
        "layer_parameters": after,
        "layer_share": after / before,
        "parameters": student.num_parameters(),
        "share": student.num_parameters() / teacher.num_parameters(),
        "mean_output_error": float(table["output_error"].mean()),
        "mean_output_error_svd": float(table["output_error_svd"].mean()),
    }


def _plot(spectra: "dict[str, Decomposition]", ranks: dict[str, int | None], settings: Factorize, path: Path) -> None:
    """What each rank leaves unexplained, a panel per kind of matrix, a line per layer, a dot where it was cut."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = list(dict.fromkeys(_kind(name) for name in spectra))
    figure, axes = plt.subplots(2, -(-len(kinds) // 2), figsize=(11, 6), sharey=True, layout="constrained")
    for axis, kind in zip(axes.flat, kinds, strict=False):
        mine = [name for name in spectra if _kind(name) == kind]
        for i, name in enumerate(mine):
            left = (1 - spectra[name].energy.cumsum(0)).clamp_min(1e-6).sqrt()
            color = plt.colormaps["viridis"](i / max(1, len(mine) - 1))
            axis.semilogy(range(1, len(left) + 1), left, color=color, lw=1, label=f"layer {i + 1}")
            if rank := ranks[name]:
                axis.plot(rank, left[rank - 1], "o", color=color, ms=4)
        axis.set(title=kind, xlabel="rank", ylim=(1e-3, 1.1))
    axes.flat[0].legend(fontsize=7)
    figure.supylabel(f"relative error left ({settings.decomposition})")
    figure.suptitle(f"Singular spectra and the ranks chosen: budget {settings.budget:g}, {settings.rank_rule}")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def _kind(name: str) -> str:
    """A matrix's name without its layer."""
    return name.split(".layer.")[-1].partition(".")[2]


if __name__ == "__main__":
    with command(Factorize, __doc__, "task") as job:
        factorize(
            job.params.factorize,
            data=job.of("prepare", "data"),
            teacher=job.of("finetune", "model"),
            output=job.output,
            seed=job.params.seed,
            run=job.run,
        )
