"""What the budget leaves for the matrices, once what cannot be factorized is paid."""

import math
from typing import TYPE_CHECKING

from stages.models.anatomy import Parts
from stages.settings import BadInput, Factorize

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def room(settings: Factorize, teacher: "PreTrainedModel", start: "PreTrainedModel") -> int | None:
    """Parameters that all matrices of `start` together may store; None where they all fit as they are.

    Args:
        teacher: the model that the budget is a share of.
        start: the student before factorization.

    Raises:
        BadInput: the budget does not even hold biases and norms (with `count: all` embeddings and head too), or
            the embedding's rank saves nothing, or the head is tied to the embedding.
    """
    words = Parts(start).words.weight
    head = start.get_output_embeddings()
    if settings.embeddings and head is not None and head.weight is words:
        raise BadInput(
            f"factorize.embeddings {settings.embeddings} would part the word embedding from the head that shares its "
            "weights; set factorize.embeddings to null"
        )
    if settings.embeddings and settings.embeddings * sum(words.shape) >= words.numel():
        raise BadInput(
            f"factorize.embeddings {settings.embeddings} saves nothing on a {tuple(words.shape)} embedding; "
            f"use less than {-(-words.numel() // sum(words.shape))}"
        )
    whole, has = (_counted(model, settings.count) for model in (teacher, start))
    if settings.count == "all" and settings.embeddings:
        has += settings.embeddings * sum(words.shape) - words.numel()
    budget = int(settings.budget * whole)
    if has <= budget:
        return None
    fixed = has - Parts(start).matrix_parameters()
    if budget <= fixed:
        raise BadInput(
            f"factorize.budget {settings.budget} of {whole:,} parameters is less than the {fixed:,} that cannot be "
            f"factorized; raise it above {math.ceil(100 * fixed / whole) / 100:g}"
            + (" or set factorize.embeddings" * (settings.count == "all"))
        )
    return budget - fixed


def _counted(model: "PreTrainedModel", count: str) -> int:
    return Parts(model).layer_parameters() if count == "layers" else model.num_parameters()
