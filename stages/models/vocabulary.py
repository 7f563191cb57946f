"""Whether models mean the same by the same ids: only then can one read, and be judged by, what the other does."""

from typing import TYPE_CHECKING

from stages.settings import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def require_same(place: str, tokenizer: "PreTrainedTokenizerBase", *, model: str, other: str, cure: str) -> None:
    """Lets a model pass whose tokenizer gives every id the meaning that `tokenizer` gives it, or that has none.

    Args:
        place: the model, a folder or a hub id.
        model, other: what the sentence calls the model, and what `tokenizer` is of.
        cure: the end of the sentence, which names the setting to change.

    Raises:
        BadInput: an id means different tokens.
    """
    own = _tokenizer_of(place)
    if own and (found := _difference(own, tokenizer)):
        number, ours, theirs = found
        raise BadInput(f"{model} means {ours!r} by token {number}, {other} {theirs!r}; {cure}")


def is_empty(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Without files the library makes one of the model's family that knows special tokens alone."""
    return not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)


def _tokenizer_of(place: str) -> "PreTrainedTokenizerBase | None":
    """The tokenizer that a model, a folder or a hub id, comes with; None where there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError):
        return None
    return None if is_empty(tokenizer) else tokenizer


def _difference(one: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase") -> tuple[int, str, str] | None:
    """The first id that both have for different tokens, and the two; None where there is none.

    Ids that one of them alone has may be tokens that were added and are not used.
    """
    own, theirs = ({number: token for token, number in each.get_vocab().items()} for each in (one, other))
    return next(((i, own[i], theirs[i]) for i in sorted(own.keys() & theirs.keys()) if own[i] != theirs[i]), None)
