"""Whether models mean the same by the same ids: only then can one read, and be judged by, what the other does."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenizer_of(place: str) -> "PreTrainedTokenizerBase | None":
    """The tokenizer that a model, a folder or a hub id, comes with; None where there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError):
        return None
    return None if is_empty(tokenizer) else tokenizer


def is_empty(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Without files the library makes one of the model's family that knows special tokens alone."""
    return not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)


def difference(one: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase") -> tuple[int, str, str] | None:
    """The first id that both have for different tokens, and the two; None where there is none.

    Ids that one of them alone has may be tokens that were added and are not used.
    """
    own, theirs = ({number: token for token, number in each.get_vocab().items()} for each in (one, other))
    return next(((i, own[i], theirs[i]) for i in sorted(own.keys() & theirs.keys()) if own[i] != theirs[i]), None)
