"""What is timed: a classifier's request; of a decoder prefill (reading the prompt) and decode (writing behind it).

phase     one unit of time is                      batches
request   a batch answered                         validation texts, padded to the longest
prefill   a prompt token read                      beginnings of validation rows, padded on the left
decode    a step, one token of every row written   16 steps behind such a prompt, whose reading is not timed
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.timing import Batch, Prepare, drawer, encoded

if TYPE_CHECKING:
    import numpy as np

    from serving.decoder import Cache, Decoder
    from serving.opening import Model

STEPS = 16
"""Tokens that one timed decode writes."""
UNITS = {"request": "sentence", "prefill": "prompt token", "decode": "token"}


def phases(model: "Model") -> dict[str, Prepare]:
    """What there is to be timed of a model: phase -> how a batch is made ready for it."""
    if not model.generates:
        return {"request": lambda batch: (partial(model.run, batch), 1)}
    return {"prefill": partial(_prefill, model.decoder), "decode": partial(_decode, model.decoder)}


def longest(model: "Model") -> int:
    """Most tokens that a timed text may have."""
    return model.manifest["positions"] - STEPS * model.generates


def draws(model: "Model", data: Path, length: str | int, size: int, seed: int) -> Callable[[], Batch]:
    """What gives a new batch (size, tokens) of the validation split at each call; the same ones for the same seed.

    Args:
        length: `real` (rows as long as they are), or the tokens of every row.
    """
    if not model.generates:
        return drawer(model, encoded(data, model), length, size, seed)
    return _prompts(data, length, size, longest(model), seed)


def _prompts(data: Path, length: str | int, size: int, most: int, seed: int) -> Callable[[], Batch]:
    import numpy as np

    from serving.decoder import pad_left
    from stages.tasks.splits import read_split

    rng, rows = np.random.default_rng(seed), read_split(data, "validation")["input_ids"][:]

    def draw() -> Batch:
        drawn = [rows[i] for i in rng.integers(len(rows), size=size)]
        if length == "real":
            return dict(zip(("ids", "mask"), pad_left([row[:most] for row in drawn]), strict=True))
        ids = np.resize(np.concatenate(drawn), (size, length))
        return {"ids": ids, "mask": np.ones_like(ids)}

    return draw


def _prefill(decoder: "Decoder", batch: Batch) -> tuple[Callable[[], Any], int]:
    return partial(decoder.step, **batch), int(batch["mask"].sum())


def _decode(decoder: "Decoder", batch: Batch) -> tuple[Callable[[], Any], int]:
    _, past = decoder.step(**batch)
    return partial(_write, decoder, batch["ids"][:, -1:], batch["mask"], past), STEPS


def _write(decoder: "Decoder", ids: "np.ndarray", mask: "np.ndarray", past: "Cache") -> None:
    """The same token again and again: which one does not change the time."""
    import numpy as np

    for _ in range(STEPS):
        mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
        _, past = decoder.step(ids, mask, past)
