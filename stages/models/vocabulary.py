"""Whether the token ids of two models mean the same: only then can one model's output be compared with the other's."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from stages.errors import BadInput


def require_same_vocabulary(
    folder: str, tokenizer: PreTrainedTokenizerBase, *, model: str, other: str, cure: str
) -> None:
    """Lets a model pass whose tokenizer gives every id the same token as `tokenizer`, or that has no tokenizer.

    Args:
        folder: the model, a folder or a hub id.
        model, other: what the sentence calls the model, and the owner of `tokenizer`.
        cure: the end of the sentence, which names the setting to change.

    Raises:
        BadInput: an id stands for different tokens.
    """
    own = _load_tokenizer(folder)
    if own and (difference := _first_difference(own, tokenizer)):
        number, ours, theirs = difference
        raise BadInput(f"{model} means {ours!r} by token {number}, {other} {theirs!r}; {cure}")


def has_no_vocabulary(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Without files the library makes a tokenizer of the model's family that has special tokens alone."""
    return not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)


def _load_tokenizer(folder: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model, a folder or a hub id; None where there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError):
        return None
    return None if has_no_vocabulary(tokenizer) else tokenizer


def _first_difference(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> tuple[int, str, str] | None:
    """The first id that both have for different tokens, and the two tokens; None where there is none.

    Ids that only one of them has may be added tokens that are not used.
    """
    own, theirs = ({number: token for token, number in each.get_vocab().items()} for each in (one, other))
    return next(((i, own[i], theirs[i]) for i in sorted(own.keys() & theirs.keys()) if own[i] != theirs[i]), None)
