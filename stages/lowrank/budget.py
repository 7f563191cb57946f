"""What the budget leaves for the matrices, once what cannot be factorized is paid."""

import math

from transformers import PreTrainedModel

from stages.errors import BadInput
from stages.models.anatomy import ModelParts, unwrap_low_rank
from stages.settings import Factorize


def matrix_budget(settings: Factorize, teacher: PreTrainedModel, student: PreTrainedModel) -> int | None:
    """Parameters that all matrices of `student` together may store; None where they all fit as they are.

    Args:
        teacher: the model that the budget is a share of.
        student: before factorization.

    Raises:
        BadInput: the budget does not even hold biases and norms (with `count: all` embeddings and head too), or
            the embedding's rank saves nothing, or the head is tied to the embedding, or a student over the budget is
            factorized already.
    """
    words = ModelParts(student).word_embedding.weight
    head = student.get_output_embeddings()
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
    whole, own = (_count_parameters(model, settings.count) for model in (teacher, student))
    if settings.count == "all" and settings.embeddings:
        own += settings.embeddings * sum(words.shape) - words.numel()
    budget = int(settings.budget * whole)
    if own <= budget:
        return None
    if unwrap_low_rank(student) is not student:
        raise BadInput(
            f"a student that is factorized already has {own / whole:.1%} of {whole:,} parameters, more than "
            f"factorize.budget {settings.budget:g}; start from a dense one, or raise the budget"
        )
    fixed = own - ModelParts(student).count_matrix_parameters()
    if budget <= fixed:
        raise BadInput(
            f"factorize.budget {settings.budget} of {whole:,} parameters is less than the {fixed:,} that cannot be "
            f"factorized; raise it above {math.ceil(100 * fixed / whole) / 100:g}"
            + (" or set factorize.embeddings" * (settings.count == "all"))
        )
    return budget - fixed


def _count_parameters(model: PreTrainedModel, count: str) -> int:
    return ModelParts(model).count_layer_parameters() if count == "layers" else model.num_parameters()
