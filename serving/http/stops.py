"""Streamed text up to the first of several stop texts."""

from collections.abc import Sequence


class StopFilter:
    """Passes text on as far as it certainly comes before every stop; the rest is held back.

    Args:
        stops: texts before which the answer ends; they are no part of it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held, self.found = stops, "", False

    def add(self, text: str) -> str:
        """What can be passed on after `text`; `found` is true once a stop has come."""
        held = self._held + text
        places = [held.find(stop) for stop in self._stops if stop in held]
        self.found = bool(places)
        begun = (size for stop in self._stops for size in range(1, len(stop)) if held.endswith(stop[:size]))
        cut = min(places) if places else len(held) - max(begun, default=0)
        self._held = "" if places else held[cut:]
        return held[:cut]

    def flush(self) -> str:
        """What was held back for a stop that has not come."""
        return self._held
