"""Statistics of matrices, and factors of a model's own."""

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from stages.lowrank.decompose import Method, Statistics, decompose


def make_statistics(inputs: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, Statistics]:
    """500 random inputs (500, inputs) of uneven sizes, and the statistics of a matrix (outputs, inputs) on them."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(500, inputs)) * draw.uniform(0.01, 3, inputs)
    rows = draw.uniform(0.1, 2, outputs)
    return x, Statistics(inputs=torch.tensor(x.T @ x / len(x)), rows=torch.tensor(rows))


def decompose_matrices(
    model: PreTrainedModel, names: list[str], rank: int, method: Method = "whitened"
) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors of the named matrices on inputs whose second moment is the identity."""
    weights = {name: model.get_submodule(name).weight for name in names}
    moments = {name: torch.eye(weight.shape[1]).double() for name, weight in weights.items()}
    return {
        name: decompose(weight, method, Statistics(inputs=moments[name])).factors(rank)
        for name, weight in weights.items()
    }
