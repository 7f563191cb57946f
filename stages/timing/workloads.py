"""What is timed: a classifier's request; of a decoder prefill (reading the prompt) and decode (generating after it).

phase     one unit of time is                        batches
request   a batch answered                           validation texts, padded to the longest
prefill   a prompt token read                        beginnings of validation rows, padded on the left
decode    a step, one token of every row generated   16 steps after such a prompt, whose reading is not timed
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from tokenizers import Encoding

from serving.decoder import Cache, Decoder, pad_left
from serving.generator import Generator
from serving.predictor import Predictor, Row
from stages.errors import BadInput
from stages.tasks.splits import read_split
from stages.timing.rounds import Batch, Prepare

M = TypeVar("M", Predictor, Generator)
DECODE_STEPS = 16
"""Tokens that one timed decode generates."""


class Workload(Generic[M]):
    """The timed phases of one kind of model, and the batches for them.

    Args:
        data: written by prepare; batches are drawn from its validation split.
    """

    units: ClassVar[Mapping[str, str]]
    """Phase -> its unit, in order; the last one is what comparisons show."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def get_max_length(self, model: M) -> int:
        """Most tokens of a timed text."""
        raise NotImplementedError

    def list_phases(self, model: M) -> dict[str, Prepare]:
        """Phase -> how a batch is made ready for it."""
        raise NotImplementedError

    def make_draw(self, model: M, length: str | int, size: int, seed: int) -> Callable[[], Batch]:
        """Draws a new batch (size, tokens) at each call; the same ones for the same seed.

        Args:
            length: `real` (rows as long as they are), or the tokens of every row.
        """
        raise NotImplementedError

    def require_length(self, setting: str, length: str | int, model: M) -> None:
        """Refuses lengths that cannot be timed.

        Raises:
            BadInput: the length is more than the model reads.
        """
        if isinstance(length, int) and not 2 <= length <= (most := self.get_max_length(model)):
            raise BadInput(f"{setting} {length}, but this model reads 2 to {most} tokens when timed")

    def shown_phase(self, model: M) -> Prepare:
        """The phase that comparisons show."""
        return self.list_phases(model)[list(self.units)[-1]]


class RequestWorkload(Workload[Predictor]):
    """A classifier's requests."""

    units: ClassVar = {"request": "sentence"}

    def get_max_length(self, model: Predictor) -> int:
        return model.manifest["positions"]

    def list_phases(self, model: Predictor) -> dict[str, Prepare]:
        return {"request": lambda batch: (partial(model.run, batch), 1)}

    def make_draw(self, model: Predictor, length: str | int, size: int, seed: int) -> Callable[[], Batch]:
        return draw_sentences(model, self._encode_validation(model), length, size, seed)

    def _encode_validation(self, model: Predictor) -> list[Encoding]:
        """The validation split's texts (or pairs), tokenized by the predictor."""
        rows = read_split(self.data, "validation")
        pairs = "text_pair" in rows.column_names
        texts = list(zip(rows["text"], rows["text_pair"], strict=True)) if pairs else list(rows["text"])
        return model.encode(texts)


class GenerationWorkload(Workload[Generator]):
    """A decoder's prefill and decode."""

    units: ClassVar = {"prefill": "prompt token", "decode": "token"}

    def get_max_length(self, model: Generator) -> int:
        return model.manifest["positions"] - DECODE_STEPS

    def list_phases(self, model: Generator) -> dict[str, Prepare]:
        return {
            "prefill": partial(_prepare_prefill, model.decoder),
            "decode": partial(_prepare_decode, model.decoder),
        }

    def make_draw(self, model: Generator, length: str | int, size: int, seed: int) -> Callable[[], Batch]:
        rng, rows = np.random.default_rng(seed), read_split(self.data, "validation")["input_ids"][:]
        most = self.get_max_length(model)

        def draw() -> Batch:
            drawn = [rows[i] for i in rng.integers(len(rows), size=size)]
            if isinstance(length, str):
                return dict(zip(("ids", "mask"), pad_left([row[:most] for row in drawn]), strict=True))
            ids = np.resize(np.concatenate(drawn), (size, length))
            return {"ids": ids, "mask": np.ones_like(ids)}

        return draw


def draw_sentences(
    model: Predictor, sentences: list[Row], length: str | int, size: int, seed: int
) -> Callable[[], Batch]:
    """Draws a new batch (size, tokens) of tokenized sentences at each call; the same sequence for the same seed.

    Args:
        length: `real` (padded to the longest of the batch), or the tokens of every row.
    """
    rng = np.random.default_rng(seed)

    def draw() -> Batch:
        rows = [sentences[i] for i in rng.integers(len(sentences), size=size)]
        if isinstance(length, str):
            return model.pad(rows)
        ids = np.resize(np.concatenate([row.ids for row in rows]), (size, length))
        whole = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return {name: whole[name] for name in model.inputs}

    return draw


def _prepare_prefill(decoder: Decoder, batch: Batch) -> tuple[Callable[[], Any], int]:
    return partial(decoder.step, **batch), int(batch["mask"].sum())


def _prepare_decode(decoder: Decoder, batch: Batch) -> tuple[Callable[[], Any], int]:
    _, past = decoder.step(**batch)
    return partial(_decode, decoder, batch["ids"][:, -1:], batch["mask"], past), DECODE_STEPS


def _decode(decoder: Decoder, ids: np.ndarray, mask: np.ndarray, past: Cache) -> None:
    """The same token again and again: which one does not change the time."""
    for _ in range(DECODE_STEPS):
        mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
        _, past = decoder.step(ids, mask, past)
