"""From a target in the settings to widths that a plain model can have."""

from transformers import PreTrainedModel

from stages.errors import BadInput
from stages.models.anatomy import ModelParts
from stages.pruning.plan import SizeCounter
from stages.pruning.schedule import Widths
from stages.settings import Target


def resolve_targets(targets: list[float | Target], model: PreTrainedModel) -> tuple[Widths, ...]:
    """The widths of each target, wide to narrow.

    A share is taken of every matrix's sides. A budget is met by the widest residual stream with which the feed-forward,
    cut in the same share, still fits; what is left over goes to the feed-forward, up to the neurons that it has.

    Raises:
        BadInput: the family cannot be narrowed, a width that heads do not divide or that is no narrower than the one
            before it, or a size that no width reaches.
    """
    parts = ModelParts(model)
    parts.require_narrowable()
    resolved: list[Widths] = []
    before = Widths(residual=parts.width, neurons=parts.neurons)
    for target in targets:
        widths = (
            _widths_of_share(target, parts) if isinstance(target, float) else _widths_of_target(target, model, before)
        )
        if not 0 < widths.residual < before.residual:
            raise BadInput(
                f"prune.targets has {_describe(target)}, a hidden size of {widths.residual}, which is not between 0 "
                f"and the {before.residual} before it; name targets from wide to narrow"
            )
        resolved.append(before := widths)
    return tuple(resolved)


def _widths_of_share(share: float, parts: ModelParts) -> Widths:
    return Widths(
        residual=round(share * parts.width / parts.heads) * parts.heads, neurons=max(1, round(share * parts.neurons))
    )


def _widths_of_target(target: Target, model: PreTrainedModel, before: Widths) -> Widths:
    parts = ModelParts(model)
    if target.hidden_size:
        if target.hidden_size % parts.heads:
            near = max(1, target.hidden_size // parts.heads) * parts.heads
            raise BadInput(
                f"prune.targets hidden_size {target.hidden_size} is no multiple of the model's {parts.heads} heads; "
                f"use one, like {near}"
            )
        return Widths(residual=target.hidden_size, neurons=round(target.hidden_size / parts.width * parts.neurons))
    sizes = SizeCounter(model, "layers" if target.budget else "all", None)
    budget = int(target.budget * sizes.whole) if target.budget else target.params

    def size(width: int, neurons: int) -> int:
        return sizes(parts.depth, width, neurons)

    widths = range(parts.heads, parts.width, parts.heads)
    fitting = [w for w in widths if size(w, round(w / parts.width * parts.neurons)) <= budget]
    if not fitting:
        least = size(parts.heads, round(parts.heads / parts.width * parts.neurons))
        raise BadInput(f"prune.targets has {_describe(target)}, but the narrowest model has {least:,} parameters")
    width = fitting[-1]
    bare = size(width, 0)
    return Widths(residual=width, neurons=min(before.neurons, (budget - bare) // (size(width, 1) - bare)))


def _describe(target: float | Target) -> str:
    return f"{target:g}" if isinstance(target, float) else str(target.model_dump(exclude_none=True))
