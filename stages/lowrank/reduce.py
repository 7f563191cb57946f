"""From a dense model to its low-rank copy: statistics, spectra, ranks, factors."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stages.lowrank.calibrate import calibrate
from stages.lowrank.decompose import Decomposition, Statistics, decompose, shift
from stages.lowrank.modeling import assemble, separate
from stages.lowrank.ranks import Matrix, allocate
from stages.lowrank.reach import reach
from stages.models.anatomy import Parts
from stages.settings import Factorize

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A model after factorization, and all that was found on the way, by the matrices' names; empty if nothing was."""

    model: "PreTrainedModel"
    """A LowRankModel; the model itself where nothing was factorized."""
    weights: dict[str, Tensor]
    statistics: dict[str, Statistics]
    spectra: dict[str, Decomposition]
    ranks: dict[str, int | None]
    """None: the matrix stayed dense."""
    factors: dict[str, tuple[Tensor, Tensor]]


def reduce(
    settings: Factorize, model: "PreTrainedModel", budget: int | None, batches: Iterable[dict[str, Tensor]]
) -> Reduced:
    """Factorizes a model's matrices until they fit, and its word embedding where a rank is set for it.

    Args:
        budget: parameters that all matrices together may store; None: they fit, and the batches are not read.
        batches: calibration text.

    Raises:
        BadInput: ranks that meet the budget do not exist.
    """
    from tqdm import tqdm

    names: list[str] = []
    if budget is not None:
        model = separate(model)
        names = Parts(model).matrix_names()
    statistics = calibrate(model, names, batches, fisher=settings.decomposition == "fisher") if names else {}
    weights = {name: model.get_submodule(name).weight for name in names}
    bar = {"desc": f"factorize: {settings.decomposition}", "unit": "matrix", "disable": not names}
    spectra = {
        name: decompose(weight, settings.decomposition, statistics[name])
        for name, weight in tqdm(weights.items(), **bar)
    }
    read = reach(model, names) if settings.rank_rule == "speed" else {}
    ranks = _ranks(settings, spectra, budget, read) if names else {}
    factors = {name: spectra[name].factors(rank) for name, rank in ranks.items() if rank}
    return Reduced(
        model=_assembled(settings, model, factors, statistics),
        weights=weights,
        statistics=statistics,
        spectra=spectra,
        ranks=ranks,
        factors=factors,
    )


def _ranks(
    settings: Factorize, spectra: dict[str, Decomposition], budget: int, read: dict[str, float]
) -> dict[str, int | None]:
    matrices = [
        Matrix(
            name=name, outputs=s.u.shape[0], inputs=s.v.shape[1], energy=s.energy.tolist(), reach=read.get(name, 1.0)
        )
        for name, s in spectra.items()
    ]
    return allocate(matrices, budget, settings.rank_rule, settings.multiple_of)


def _assembled(
    settings: Factorize,
    model: "PreTrainedModel",
    factors: dict[str, tuple[Tensor, Tensor]],
    statistics: dict[str, Statistics],
) -> "PreTrainedModel":
    shifts = {
        name: shift(model.get_submodule(name).weight, pair, statistics[name])
        for name, pair in factors.items()
        if settings.decomposition == "whitened" and statistics[name].mean is not None
    }
    if settings.embeddings:
        parts = Parts(model)
        factors = factors | {parts.words_at: _embedding(parts.words, settings.embeddings)}
    return assemble(model, factors, shifts) if factors else model


def _embedding(words: nn.Embedding, rank: int) -> tuple[Tensor, Tensor]:
    """Plain SVD of the word embedding: (words, rank) and (rank, width)."""
    moment = torch.eye(words.weight.shape[1], dtype=torch.float64)
    return decompose(words.weight, "svd", Statistics(inputs=moment)).factors(rank)
