"""A loaded model and the queue before it: a classifier's, or a language model's."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from serving.batching import Batcher, QueueFull
from serving.exported import ModelError
from serving.generator import Generator, Piece, Prompt
from serving.predictor import Predictor, Row, Text

if TYPE_CHECKING:
    from serving.sampling import Sampling
    from serving.settings import Settings
    from serving.telemetry import Telemetry


T = TypeVar("T")


class BatchWorker:
    """Texts in, logits out, by dynamic batching."""

    def __init__(self, model: Predictor, name: str, settings: "Settings", telemetry: "Telemetry") -> None:
        self.model, self._settings = model, settings
        self._batcher = Batcher(lambda rows: model.run(model.pad(rows)), name, settings, telemetry)

    @property
    def pending(self) -> int:
        """Texts accepted and not yet answered."""
        return self._batcher.pending

    def start(self) -> None:
        """Begins to answer, on the running event loop."""
        self._batcher.start()

    async def close(self) -> None:
        """Answers what was accepted, then stops."""
        await self._batcher.close()

    async def classify(self, texts: Sequence[Text], truncate: bool | None = None) -> np.ndarray:
        """Logits (texts, outputs) float32.

        Args:
            truncate: what happens to long texts; None: as the settings say.

        Raises:
            ModelError: a text that the model cannot read.
            QueueFull: come again later.
        """
        truncates = self._settings.long_texts == "truncate" if truncate is None else truncate
        size = sum(len(part) for text in texts for part in ([text] if isinstance(text, str) else text))
        return await self._batcher.compute_logits(len(texts), size, lambda: self._tokenize(texts, truncates))

    async def classify_tokens(self, rows: Sequence[Row]) -> np.ndarray:
        """As `classify`, of texts that their sender has tokenized."""
        return await self._batcher.compute_logits(len(rows), 0, lambda: rows)

    def _tokenize(self, texts: Sequence[Text], truncate: bool) -> Sequence[Row]:
        rows, most = self.model.encode(texts), self.model.manifest["max_length"]
        for number, row in enumerate(rows):
            if row.overflowing and not truncate:
                raise ModelError(f"text {number} is longer than the {most} tokens that this model reads; shorten it")
            if not len(row):
                raise ModelError(f"text {number} has no tokens; give some text")
        return rows


class GenerationWorker:
    """Prompts in, pieces of text out. Texts that are generated at the same time take turns, token by token."""

    def __init__(self, model: Generator, settings: "Settings") -> None:
        self.model, self._settings, self.pending = model, settings, 0
        self._steps = ThreadPoolExecutor(settings.instances, "generate")

    def start(self) -> None:
        """Nothing to begin."""

    async def close(self) -> None:
        """Finishes the texts that were begun, then stops."""
        while self.pending:
            await asyncio.sleep(0.02)
        self._steps.shutdown(wait=False)

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Room to generate so many texts.

        Raises:
            QueueFull: come again later.
            ModelError: there is never so much room.
        """
        most = self._settings.max_generations
        if count > most:
            raise ModelError(f"{count} prompts, but max_generations is {most}; send them in several requests")
        if self.pending + count > most:
            raise QueueFull(f"{self.pending} texts are being generated, and max_generations is {most}", 1)
        self.pending += count
        try:
            yield
        finally:
            self.pending -= count

    async def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The prompts' tokens.

        Raises:
            ModelError: as the generator.
        """
        return await self._run_step(self.model.encode, prompts)

    async def stream(self, ids: Sequence[int], sampling: "Sampling") -> AsyncIterator[Piece]:
        """The continuation of a prompt, token by token."""
        pieces = self.model.pieces(ids, sampling)
        while piece := await self._run_step(next, pieces, None):
            yield piece

    async def _run_step(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._steps, work, *arguments)
