"""The plan of a student before factorization: which layers, how wide.

Its size reaches the budget; what is over is left to factorization, what is under by more than 1 % is refused.
"""

import math
from dataclasses import dataclass

from transformers import PreTrainedModel

from stages.errors import BadInput
from stages.models.anatomy import ModelParts
from stages.models.families import Group
from stages.models.layers import choose_layers
from stages.pruning.compact import map_axes
from stages.settings import Factorize

Dimensions = list[tuple[Group | None, int]]
"""A weight's shape, each dimension with its group."""
REACHED = 0.99
"""Share of the budget from which on it counts as met."""


@dataclass(frozen=True, kw_only=True)
class StudentPlan:
    """Which layers, how wide."""

    layers: list[int]
    """The teacher's, from 1."""
    width: int
    """Of the residual stream."""
    neurons: int
    """Of each feed-forward."""


class SizeCounter:
    """Counts a student's parameters without making it: its layers', or all, as `count` says.

    Args:
        words: rank of the word embedding's factors; None where it stays whole.
    """

    def __init__(self, model: PreTrainedModel, count: str, words: int | None) -> None:
        parts = ModelParts(model)
        layout = map_axes(model) if parts.anatomy.outer_weights else {}
        self.words = words
        self.layer: list[Dimensions] = []
        self.outside: list[Dimensions] = []
        self.embedding: list[Dimensions] = []
        for name, weight in model.named_parameters():
            known = layout.get(name, (None,) * weight.ndim)
            dimensions = [(axis and axis[0], size) for axis, size in zip(known, weight.shape, strict=True)]
            if name.startswith(f"{parts.layers_path}.0."):
                self.layer.append(dimensions)
            elif count == "all" and not name.startswith(f"{parts.layers_path}."):
                (self.embedding if name == f"{parts.word_embedding_path}.weight" else self.outside).append(dimensions)
        self.whole = parts.count_layer_parameters() if count == "layers" else model.num_parameters()
        self.of = f"the teacher's {'layer ' * (count == 'layers')}parameters"

    def __call__(self, depth: int, width: int, neurons: int) -> int:
        given = {"ffn": neurons} | dict.fromkeys(("residual", "head", "qk", "vo"), width)

        def sides(dimensions: Dimensions) -> list[int]:
            return [given.get(group, whole) for group, whole in dimensions]

        layer = sum(math.prod(sides(d)) for d in self.layer)
        embedding = sum(self.words * sum(sides(d)) if self.words else math.prod(sides(d)) for d in self.embedding)
        return depth * layer + embedding + sum(math.prod(sides(d)) for d in self.outside)


def plan_from_budget(settings: Factorize, model: PreTrainedModel) -> StudentPlan:
    """The plan that the settings name; what they leave open is chosen to reach the budget.

    Raises:
        BadInput: a layer, depth or width that does not exist, or that makes less than the budget whatever follows.
    """
    parts = ModelParts(model)
    _check_widths(settings, parts)
    sizes = SizeCounter(model, settings.count, settings.embeddings)
    width, neurons = settings.hidden_size or parts.width, settings.intermediate_size or parts.neurons

    def reaches(depth: int, width: int = width) -> bool:
        return sizes(depth, width, neurons) >= REACHED * settings.budget * sizes.whole

    fewest = next((depth for depth in range(1, parts.depth + 1) if reaches(depth)), None)
    layers = choose_layers(settings.layers, settings.depth or fewest or parts.depth, parts.depth)
    if not reaches(len(layers)):
        share = sizes(len(layers), width, neurons) / sizes.whole
        wider = (w for w in range(width, parts.width, parts.heads) if reaches(len(layers), w))
        raise BadInput(_describe_too_small(settings, len(layers), share, sizes.of, fewest, next(wider, None)))
    if settings.hidden_size and not settings.intermediate_size:
        neurons = _choose_neurons(settings, sizes, len(layers), width, parts.neurons)
    return StudentPlan(layers=layers, width=width, neurons=neurons)


def plan_from_model(settings: Factorize, teacher: PreTrainedModel, student: PreTrainedModel) -> StudentPlan:
    """The plan of a pretrained model that is the student in place of a cut teacher.

    Raises:
        BadInput: another vocabulary than the teacher's, or less than the budget.
    """
    parts = ModelParts(student)
    words, own = (ModelParts(model).word_embedding.num_embeddings for model in (teacher, student))
    if words != own:
        raise BadInput(
            f"factorize.pretrained_student {settings.pretrained_student} has {own:,} words, the teacher {words:,}; "
            "start from a model with the teacher's tokenizer"
        )
    size = parts.count_layer_parameters() if settings.count == "layers" else student.num_parameters()
    share = size / SizeCounter(teacher, settings.count, None).whole
    if share < REACHED * settings.budget:
        raise BadInput(
            f"factorize.pretrained_student {settings.pretrained_student}: {share:.1%} of the teacher's parameters are "
            f"too little for factorize.budget {settings.budget:g}; factorize.budget "
            f"{math.ceil(1000 * share) / 1000:g} would do"
        )
    return StudentPlan(layers=list(range(1, parts.depth + 1)), width=parts.width, neurons=parts.neurons)


def _check_widths(settings: Factorize, parts: ModelParts) -> None:
    width, neurons, heads = settings.hidden_size, settings.intermediate_size, parts.heads
    if width or neurons:
        parts.require_narrowable()
    if width and (width % heads or width >= parts.width):
        near = max(heads, min(width, parts.width - 1) // heads * heads)
        raise BadInput(
            f"factorize.hidden_size {width} must be a multiple of the teacher's {heads} heads and less than its "
            f"{parts.width}, like {near}"
        )
    if width and width == getattr(parts.config, "embedding_size", None) != parts.width:
        raise BadInput(
            f"factorize.hidden_size {width} is the embedding's own width, at which {parts.config.model_type} has no "
            f"projection between the two; use another multiple of {heads}"
        )
    if neurons and neurons > parts.neurons:
        raise BadInput(
            f"factorize.intermediate_size {neurons} is more than the teacher's {parts.neurons}; use that or less"
        )


def _describe_too_small(
    settings: Factorize, depth: int, share: float, of: str, fewest: int | None, wider: int | None
) -> str:
    """One sentence: what is too small for the budget, what it makes, what would do."""
    if settings.depth:
        what = f"factorize.depth {settings.depth}"
    elif isinstance(settings.layers, list):
        what = f"factorize.layers {settings.layers}"
    elif settings.hidden_size:
        what = f"factorize.hidden_size {settings.hidden_size} with {depth} layers"
    else:
        what = f"factorize.intermediate_size {settings.intermediate_size} with {depth} layers"
    remedies = [f"factorize.budget {math.floor(1000 * share) / 1000:g} would do"]
    if fewest and settings.layers != "all":
        remedies = [f"the smallest depth that works is {fewest}"]
    elif settings.hidden_size and wider:
        remedies.append(f"or factorize.hidden_size {wider}")
    made = f"makes {share:.1%} of {of}, too little for factorize.budget {settings.budget:g}"
    return f"{what} {made}; {', '.join(remedies)}"


def _choose_neurons(settings: Factorize, sizes: SizeCounter, depth: int, width: int, most: int) -> int:
    """The widest feed-forward that the budget leaves."""
    budget, bare = int(settings.budget * sizes.whole), sizes(depth, width, 0)
    left = (budget - bare) // (sizes(depth, width, 1) - bare)
    neurons = min(most, left // settings.multiple_of * settings.multiple_of)
    if left < 1:  # the attention alone fills the budget
        raise BadInput(
            f"factorize.hidden_size {width} leaves nothing for the feed-forward: the rest of {depth} layers is "
            f"{bare / sizes.whole:.1%} of {sizes.of}, factorize.budget {settings.budget:g}; use a narrower one, or "
            "give factorize.intermediate_size, and what is over is factorized away"
        )
    if not neurons or sizes(depth, width, neurons) < REACHED * budget:
        raise BadInput(
            f"factorize.multiple_of {settings.multiple_of} is too coarse for an intermediate_size within 1 % of "
            f"factorize.budget {settings.budget:g}; use 1, or give factorize.intermediate_size {min(most, left + 1)}, "
            "and what is over is factorized away"
        )
    return neurons
