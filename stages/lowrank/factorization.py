"""From a dense model to its low-rank copy: statistics, spectra, ranks, factors."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.lowrank.assemble import assemble_low_rank
from stages.lowrank.calibration import collect_statistics
from stages.lowrank.decompose import Decomposition, Statistics, bias_shift, decompose
from stages.lowrank.output_use import measure_output_use
from stages.lowrank.ranks import Matrix, allocate_ranks
from stages.models.anatomy import ModelParts
from stages.models.modeling import replace_conv1d
from stages.progress import track
from stages.settings import Factorize


@dataclass(frozen=True, kw_only=True)
class Factorization:
    """A model after factorization, and its intermediate results, by the matrices' names; empty if nothing was done."""

    model: PreTrainedModel
    """A LowRankModel; the model itself where nothing was factorized."""
    weights: dict[str, Tensor]
    statistics: dict[str, Statistics]
    spectra: dict[str, Decomposition]
    ranks: dict[str, int | None]
    """None: the matrix stayed dense."""
    factors: dict[str, tuple[Tensor, Tensor]]


def factorize_model(
    settings: Factorize, model: PreTrainedModel, budget: int | None, batches: Iterable[dict[str, Tensor]]
) -> Factorization:
    """Factorizes a model's matrices until they fit, and its word embedding where a rank is set for it.

    Args:
        budget: parameters that all matrices together may store; None: they fit, and the batches are not read.
        batches: calibration text.

    Raises:
        BadInput: ranks that meet the budget do not exist.
    """
    names: list[str] = []
    if budget is not None:
        model = replace_conv1d(model)
        names = ModelParts(model).list_matrix_names()
    statistics = collect_statistics(model, names, batches, fisher=settings.decomposition == "fisher") if names else {}
    weights = {name: model.get_submodule(name).weight for name in names}
    title = f"factorize: {settings.decomposition} decomposition"
    spectra = {
        name: decompose(weight, settings.decomposition, statistics[name])
        for name, weight in track(weights.items(), title, unit="matrices")
    }
    ranks = {} if budget is None else _choose_ranks(settings, model, spectra, budget)
    factors = {name: spectra[name].factors(rank) for name, rank in ranks.items() if rank}
    return Factorization(
        model=_assemble(settings, model, factors, statistics),
        weights=weights,
        statistics=statistics,
        spectra=spectra,
        ranks=ranks,
        factors=factors,
    )


def _choose_ranks(
    settings: Factorize, model: PreTrainedModel, spectra: dict[str, Decomposition], budget: int
) -> dict[str, int | None]:
    use = measure_output_use(model, list(spectra)) if settings.rank_rule == "speed" else {}
    matrices = [
        Matrix(
            name=name,
            outputs=spectrum.u.shape[0],
            inputs=spectrum.v.shape[1],
            energy=spectrum.energy.tolist(),
            output_use=use.get(name, 1.0),
        )
        for name, spectrum in spectra.items()
    ]
    return allocate_ranks(matrices, budget, settings.rank_rule, settings.multiple_of)


def _assemble(
    settings: Factorize,
    model: PreTrainedModel,
    factors: dict[str, tuple[Tensor, Tensor]],
    statistics: dict[str, Statistics],
) -> PreTrainedModel:
    shifts = {
        name: bias_shift(model.get_submodule(name).weight, pair, statistics[name])
        for name, pair in factors.items()
        if settings.decomposition == "whitened" and statistics[name].mean is not None
    }
    if settings.embeddings:
        parts = ModelParts(model)
        factors = factors | {parts.word_embedding_path: _factorize_embedding(parts.word_embedding, settings.embeddings)}
    return assemble_low_rank(model, factors, shifts) if factors else model


def _factorize_embedding(words: nn.Module, rank: int) -> tuple[Tensor, Tensor]:
    """Plain SVD of the word embedding: (words, rank) and (rank, width)."""
    moment = torch.eye(words.weight.shape[1], dtype=torch.float64)
    return decompose(words.weight, "svd", Statistics(inputs=moment)).factors(rank)
