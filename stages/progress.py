"""One progress line at a time: what is at work, the share done, figures so far, the time left.

On a terminal the line is a bar that is drawn again and again and gone at the end; elsewhere (a log, a pipe) it is a
plain line now and then, without carriage returns. What runs inside something that already shows its progress, such as
an evaluation within a training, shows none of its own.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

T = TypeVar("T")
FORMAT = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {unit}{postfix}, {remaining} left"
OPEN_FORMAT = "{desc} {n_fmt} {unit}{postfix}, {elapsed}"
"""Where the total is not known."""
PERIOD = 15.0
"""Seconds between two plain lines."""


class Progress:
    """A task whose progress is shown; a context manager.

    Args:
        title: what is at work.
        total: units of work; None where that is not known.
        unit: name of the units, in the plural.
    """

    _shown: ClassVar["Progress | None"] = None

    def __init__(self, title: str, total: int | None = None, unit: str = "steps") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._figures: dict[str, str] = {}
        self._bar: Any = None
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> Self:
        if Progress._shown is None:
            Progress._shown = self
            if sys.stderr.isatty():
                from tqdm import tqdm

                self._bar = tqdm(
                    total=self.total,
                    desc=self.title,
                    unit=self.unit,
                    unit_scale=self.total is None or self.total > 100_000,
                    leave=False,
                    dynamic_ncols=True,
                    bar_format=FORMAT if self.total is not None else OPEN_FORMAT,
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if Progress._shown is self:
            Progress._shown = None
            if self._bar is not None:
                self._bar.close()

    def advance(self, count: int = 1, **figures: float | str) -> None:
        """Counts work that is done, and shows the latest figures."""
        self.done += count
        self._figures |= {name: value if isinstance(value, str) else f"{value:.4g}" for name, value in figures.items()}
        if Progress._shown is not self:
            return
        if self._bar is not None:
            if figures:
                self._bar.set_postfix_str(", ".join(f"{name} {value}" for name, value in self._figures.items()))
            self._bar.update(count)
        elif (now := time.monotonic()) - self._printed >= PERIOD:
            self._printed = now
            print(self._describe(now - self._started), file=sys.stderr, flush=True)

    def _describe(self, seconds: float) -> str:
        parts = [f"{name} {value}" for name, value in self._figures.items()]
        if not self.total:
            return ", ".join([f"{self.title}: {self.done:,} {self.unit}", *parts])
        left = seconds / max(self.done, 1) * (self.total - self.done)
        minutes, rest = divmod(round(left), 60)
        share = f"{self.title}: {self.done / self.total:.0%} of {self.total:,} {self.unit}"
        return ", ".join([share, *parts, f"{minutes}:{rest:02} left"])


def track(items: Iterable[T], title: str, *, unit: str = "batches", total: int | None = None) -> Iterator[T]:
    """The items, with their progress shown.

    Args:
        total: how many there are, where `len` does not tell.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(title, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
