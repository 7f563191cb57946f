"""Dynamic batching: requests that come at the same time share a run of the model.

    batcher = Batcher(run, name, settings, telemetry)
    batcher.start()
    logits = await batcher.compute_logits(count, size, tokenize)

A text is tokenized in a thread, then waits in the queue. As soon as one of the model's instances is free (or, with
`max_wait_ms`, a little later, if the batch is not full by then), it takes the text that has waited longest and those
whose lengths are nearest, up to `max_tokens` with padding. So nothing starves, and a short text does not pay for a
long one. The queue is bounded: what does not fit is refused at once, with the seconds after which to come again.

Nothing but waiting happens on the event loop. A request that is cancelled takes its texts out of the queue.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from serving.predictor import Row
    from serving.settings import Settings
    from serving.telemetry import Telemetry

TOKENIZERS = 2
LARGE = 50_000
"""Requests of more characters are tokenized in a thread of their own, one at a time: 2 MB take seconds, for which no
other request shall wait."""


class QueueFull(Exception):
    """No room for more.

    Args:
        seconds: after which to come again.
    """

    def __init__(self, reason: str, seconds: int) -> None:
        super().__init__(f"{reason}; come again in {seconds} s")
        self.seconds = seconds


@dataclass(eq=False, kw_only=True)
class Waiting:
    """One text in the queue."""

    row: "Row"
    logits: "asyncio.Future[np.ndarray]"
    arrived: float = field(default_factory=time.perf_counter)

    def __len__(self) -> int:
        return len(self.row)


class Batcher:
    """The queue before one model.

    Requests come and are answered on the event loop that it is started on. Each of the model's instances is a thread
    that takes its next batch out of the queue by itself, whatever the loop is busy with.

    Args:
        run: tokenized texts -> logits (texts, outputs); called in threads, `settings.instances` at a time.
        name: the model's, for the telemetry.
    """

    def __init__(
        self, run: Callable[[Sequence["Row"]], np.ndarray], name: str, settings: "Settings", telemetry: "Telemetry"
    ) -> None:
        self._run, self._name, self._settings, self._telemetry = run, name, settings, telemetry
        self._tokenizers = ThreadPoolExecutor(TOKENIZERS, "tokenize")
        self._large = ThreadPoolExecutor(1, "tokenize-large")
        # daemons: a second Ctrl-C ends the process without `close`, and must not wait for them
        self._instances = [threading.Thread(target=self._work, daemon=True) for _ in range(settings.instances)]
        self._rows: list[Waiting] = []
        self._changed, self._open = threading.Condition(), True
        self._pace = 0.0
        self.pending = 0
        """Texts accepted and not yet answered."""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for instance in self._instances:
            instance.start()

    async def close(self) -> None:
        """Answers what was accepted, then stops."""
        while self.pending:
            await asyncio.sleep(0.02)
        with self._changed:
            self._open = False
            self._changed.notify_all()
        for instance in self._instances:
            await asyncio.to_thread(instance.join)
        for pool in (self._tokenizers, self._large):
            pool.shutdown(wait=False)

    async def compute_logits(self, count: int, size: int, tokenize: Callable[[], Sequence["Row"]]) -> np.ndarray:
        """Logits (count, outputs) of the texts that `tokenize` makes; it is called in a thread.

        Args:
            size: characters of all texts together.

        Raises:
            QueueFull: before anything is done.
            Exception: what `tokenize` raises, or what the model raised on the batch.
        """
        if self.pending + count > self._settings.max_queue:
            seconds = max(1, math.ceil(self.pending * self._pace / self._settings.instances))
            raise QueueFull(f"{self.pending} texts are waiting, and max_queue is {self._settings.max_queue}", seconds)
        self.pending += count
        try:
            loop = asyncio.get_running_loop()
            tokens = await loop.run_in_executor(self._large if size > LARGE else self._tokenizers, tokenize)
            rows = [Waiting(row=each, logits=loop.create_future()) for each in tokens]
            with self._changed:
                self._rows += rows
                self._changed.notify()
            return np.stack(await asyncio.gather(*(row.logits for row in rows)))
        finally:
            self.pending -= count

    def _work(self) -> None:
        """One instance, in its thread: a batch after the other."""
        while rows := self._take_batch():
            start = time.perf_counter()
            try:
                found = self._run([row.row for row in rows])
            except Exception as error:
                found = error
            self._loop.call_soon_threadsafe(self._answer, rows, found, start, time.perf_counter() - start)

    def _take_batch(self) -> list[Waiting]:
        """Waits for a batch, and takes it out of the queue; none at the end."""
        with self._changed:
            while self._open:
                self._rows = [row for row in self._rows if not row.logits.done()]  # cancelled ones need no answer
                if not self._rows:
                    self._changed.wait()
                elif (left := self._remaining_wait()) > 0:
                    self._changed.wait(left)
                else:
                    taken = pick_batch(
                        [len(row) for row in self._rows], self._settings.max_tokens, self._settings.padding
                    )
                    rows = [self._rows[i] for i in taken]
                    self._rows = [row for i, row in enumerate(self._rows) if i not in taken]
                    return rows
        return []

    def _remaining_wait(self) -> float:
        """Seconds for which the texts that wait may wait for others: none once they fill a batch."""
        if sum(map(len, self._rows)) >= self._settings.max_tokens:
            return 0.0
        return self._rows[0].arrived + self._settings.max_wait_ms / 1000 - time.perf_counter()

    def _answer(self, rows: list[Waiting], found: np.ndarray | Exception, start: float, seconds: float) -> None:
        """Back on the event loop."""
        failed = isinstance(found, Exception)
        if not failed:
            self._report(rows, start, seconds)
        for i, row in enumerate(rows):
            if row.logits.done():  # its client has gone while the batch ran
                continue
            if failed:
                row.logits.set_exception(found)
            else:
                row.logits.set_result(found[i])

    def _report(self, rows: list[Waiting], start: float, seconds: float) -> None:
        self._pace = 0.9 * self._pace + 0.1 * seconds / len(rows) if self._pace else seconds / len(rows)
        self._telemetry.record_batch(
            self._name,
            texts=len(rows),
            tokens=sum(map(len, rows)),
            padded=len(rows) * max(map(len, rows)),
            waited=[start - row.arrived for row in rows],
            seconds=seconds,
        )


def pick_batch(lengths: Sequence[int], most: int, padding: float) -> set[int]:
    """Of texts in the order of their arrival the first, and those nearest to it in length.

    Sorted by length, the batch is a window around the first text that grows on the side that needs less padding
    (ours), while it has at most `most` tokens, padding included, of which at most the share `padding` is padding.
    A single text may be longer than `most`.

    Returns their indices.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    low = order.index(0)
    high, real = low + 1, lengths[0]
    while True:
        windows = [
            (at, at[1] - at[0]) for at in ((low - 1, high), (low, high + 1)) if at[0] >= 0 and at[1] <= len(order)
        ]
        grown = []
        for (start, end), size in windows:
            padded = size * lengths[order[end - 1]]
            tokens = real + lengths[order[start] if start < low else order[end - 1]]
            if padded <= most and padded - tokens <= padding * padded:
                grown.append((padded - tokens, start, end, tokens))
        if not grown:
            return set(order[low:high])
        _, low, high, real = min(grown)
