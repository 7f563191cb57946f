"""The plan of a student before factorization: which layers, how wide.

Its size reaches the budget; what is over is left to low-rank factors, what is under by more than 1 % is refused.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.models.anatomy import Parts
from stages.models.families import Group
from stages.models.layers import chosen
from stages.pruning.compact import axes
from stages.settings import BadInput, Factorize

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Dimensions = list[tuple[Group | None, int]]
"""A weight's shape, each side with the group that cuts it."""
REACHED = 0.99
"""Share of the budget from which on it counts as met."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which layers, how wide."""

    layers: list[int]
    """The teacher's, from 1."""
    width: int
    """Of the residual stream."""
    neurons: int
    """Of each feed-forward."""


class Sizes:
    """Counts a student's parameters without making it: its layers', or all, as `count` says.

    Args:
        words: rank of the word embedding's factors; None where it stays whole.
    """

    def __init__(self, model: "PreTrainedModel", count: str, words: int | None) -> None:
        parts = Parts(model)
        layout = axes(model) if parts.anatomy.outside else {}
        self.words = words
        self.layer: list[Dimensions] = []
        self.outside: list[Dimensions] = []
        self.embedding: list[Dimensions] = []
        for name, weight in model.named_parameters():
            known = layout.get(name, (None,) * weight.ndim)
            dimensions = [(axis and axis[0], size) for axis, size in zip(known, weight.shape, strict=True)]
            if name.startswith(f"{parts.layers_at}.0."):
                self.layer.append(dimensions)
            elif count == "all" and not name.startswith(f"{parts.layers_at}."):
                (self.embedding if name == f"{parts.words_at}.weight" else self.outside).append(dimensions)
        self.whole = parts.layer_parameters() if count == "layers" else model.num_parameters()
        self.of = f"the teacher's {'layer ' * (count == 'layers')}parameters"

    def __call__(self, depth: int, width: int, neurons: int) -> int:
        given = {"ffn": neurons} | dict.fromkeys(("residual", "head", "qk", "vo"), width)

        def sides(dimensions: Dimensions) -> list[int]:
            return [given.get(group, whole) for group, whole in dimensions]

        layer = sum(math.prod(sides(d)) for d in self.layer)
        embedding = sum(self.words * sum(sides(d)) if self.words else math.prod(sides(d)) for d in self.embedding)
        return depth * layer + embedding + sum(math.prod(sides(d)) for d in self.outside)


def fit(settings: Factorize, model: "PreTrainedModel") -> Plan:
    """The plan that the settings name; what they leave open is chosen so that the budget is reached.

    Raises:
        BadInput: a layer, depth or width that does not exist, or that makes less than the budget whatever follows.
    """
    parts = Parts(model)
    _check_widths(settings, parts)
    sizes = Sizes(model, settings.count, settings.embeddings)
    width, neurons = settings.hidden_size or parts.width, settings.intermediate_size or parts.neurons

    def reaches(depth: int, width: int = width) -> bool:
        return sizes(depth, width, neurons) >= REACHED * settings.budget * sizes.whole

    fewest = next((depth for depth in range(1, parts.depth + 1) if reaches(depth)), None)
    layers = chosen(settings.layers, settings.depth or fewest or parts.depth, parts.depth)
    if not reaches(len(layers)):
        share = sizes(len(layers), width, neurons) / sizes.whole
        wider = (w for w in range(width, parts.width, parts.heads) if reaches(len(layers), w))
        raise BadInput(_too_small(settings, len(layers), share, sizes.of, fewest, next(wider, None)))
    if settings.hidden_size and not settings.intermediate_size:
        neurons = _neurons(settings, sizes, len(layers), width, parts.neurons)
    return Plan(layers=layers, width=width, neurons=neurons)


def taken(settings: Factorize, teacher: "PreTrainedModel", start: "PreTrainedModel") -> Plan:
    """The plan that a pretrained model stands for, which is to be the student in place of a cut teacher.

    Raises:
        BadInput: another vocabulary than the teacher's, or less than the budget.
    """
    parts = Parts(start)
    words, own = (Parts(model).words.num_embeddings for model in (teacher, start))
    if words != own:
        raise BadInput(
            f"factorize.start {settings.start} has {own:,} words, the teacher {words:,}; "
            "start from a model with the teacher's tokenizer"
        )
    size = parts.layer_parameters() if settings.count == "layers" else start.num_parameters()
    share = size / Sizes(teacher, settings.count, None).whole
    if share < REACHED * settings.budget:
        raise BadInput(
            f"factorize.start {settings.start} makes {share:.1%} of the teacher's parameters, too little for "
            f"factorize.budget {settings.budget:g}; factorize.budget {math.ceil(1000 * share) / 1000:g} would do"
        )
    return Plan(layers=list(range(1, parts.depth + 1)), width=parts.width, neurons=parts.neurons)


def _check_widths(settings: Factorize, parts: Parts) -> None:
    width, neurons, heads = settings.hidden_size, settings.intermediate_size, parts.heads
    if width or neurons:
        parts.require_outside()
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


def _too_small(settings: Factorize, depth: int, share: float, of: str, fewest: int | None, wider: int | None) -> str:
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


def _neurons(settings: Factorize, sizes: Sizes, depth: int, width: int, most: int) -> int:
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
