"""A classifier's inputs from a request's tensors: texts, or token ids that the sender has made."""

import numpy as np

from serving.http.errors import Refused
from serving.predictor import Predictor, Text, Tokens

IDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def text_columns(model: Predictor) -> list[str]:
    """The names of its texts."""
    return model.text_columns(model.manifest)


def read_texts(arrays: dict[str, np.ndarray], model: Predictor) -> list[Text]:
    """Texts, or pairs, of BYTES in shape [n] or [n, 1].

    Raises:
        Refused: other inputs, or inputs of other forms.
    """
    names = text_columns(model)
    if set(arrays) != set(names):
        raise Refused(422, f"inputs are {', '.join(names)}, or input_ids; not {', '.join(arrays)!r:.80}")
    for name, array in arrays.items():
        if array.dtype != object or array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)):
            raise Refused(
                422, f"input {name} is BYTES of shape [n] or [n, 1], not {array.dtype} of {list(array.shape)}"
            )
    sides = [arrays[name].ravel().tolist() for name in names]
    if len(set(map(len, sides))) > 1:
        raise Refused(422, "text and text_pair have not the same number of elements")
    return sides[0] if len(sides) == 1 else list(zip(*sides, strict=True))


def read_tokens(arrays: dict[str, np.ndarray], model: Predictor) -> list[Tokens]:
    """Rows of INT64 [n, tokens], without the padding at their ends, so that each is as long as its text.

    Raises:
        Refused: inputs of other forms, or values that the model does not know.
    """
    ids = arrays["input_ids"]
    whole = {"attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)} | arrays
    most = {"input_ids": model.vocabulary, "attention_mask": 2, "token_type_ids": model.types}
    for name, array in whole.items():
        if name not in IDS or array.dtype.kind not in "iu" or array.ndim != 2 or array.shape != ids.shape:
            raise Refused(
                422, f"inputs are {', '.join(IDS)}, INT64 of one shape [n, tokens]; {name!r:.50} does not fit"
            )
        if array.size and not 0 <= array.min() <= array.max() < most[name]:
            raise Refused(422, f"{name} has a value that is not from 0 to {most[name] - 1}")
    mask = whole["attention_mask"]
    if not mask.any(axis=1).all():
        raise Refused(422, "a row has no tokens: its attention_mask is 0 everywhere")
    ends = mask.shape[1] - mask[:, ::-1].argmax(axis=1)
    if len(ends) and ends.max() > model.manifest["max_length"]:
        raise Refused(422, f"a row has {ends.max()} tokens; this model reads {model.manifest['max_length']}")
    return [Tokens(**{field: whole[name][row, :end] for name, field in IDS.items()}) for row, end in enumerate(ends)]
