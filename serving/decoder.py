"""A decoder's graph and its cache: tokens in, logits of what comes next out; numpy and onnxruntime only.

One graph does both halves of generation. *Prefill* reads a whole prompt behind an empty cache; *decode* reads one token
behind the keys and values of all before it. Prompts of different lengths are padded on the left, so that the last
column is the newest token of every row.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from serving.exported import Feed

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

Cache = dict[str, "OrtValue"]
"""`past_key_values.{i}.key|value` -> (batch, key heads, past, head width), where the graph runs."""
_PAST, _PRESENT = "past_key_values", "present"


class Decoder:
    """A session of a graph that reads input_ids, attention_mask, position_ids and a cache.

    Args:
        provider: where the session runs; the cache stays there, only tokens and logits travel.
    """

    def __init__(self, session: "InferenceSession", provider: str = "cpu") -> None:
        self.session, self._device = session, provider
        self._caches = {i.name: i.shape for i in session.get_inputs() if i.name.startswith(_PAST)}

    def step(self, ids: np.ndarray, mask: np.ndarray, past: Cache | None = None) -> tuple[np.ndarray, Cache]:
        """Reads tokens behind a cache, which is left as it is.

        Shapes: ids (batch, tokens) int64; mask (batch, past + tokens) int64, 0 at padding -> logits (batch, tokens,
        vocabulary) float32, and the cache with these tokens in it.
        """
        binding = self.session.io_binding()
        for name, array in _make_inputs(ids, mask).items():
            binding.bind_cpu_input(name, array)
        for name, value in (past or self._empty_cache(len(ids))).items():
            binding.bind_ortvalue_input(name, value)
        names = [output.name for output in self.session.get_outputs()]
        for name in names:
            binding.bind_output(name, "cpu" if name == "logits" else self._device)
        self.session.run_with_iobinding(binding)
        found = dict(zip(names, binding.get_outputs(), strict=True))
        return found["logits"].numpy(), {name: found[name.replace(_PAST, _PRESENT)] for name in self._caches}

    def make_feed(self, ids: np.ndarray, mask: np.ndarray) -> Feed:
        """The graph's inputs at the start of a text, as arrays."""
        return _make_inputs(ids, mask) | self._empty_arrays(len(ids))

    def _empty_cache(self, batch: int) -> Cache:
        from onnxruntime import OrtValue

        return {
            name: OrtValue.ortvalue_from_numpy(array, self._device) for name, array in self._empty_arrays(batch).items()
        }

    def _empty_arrays(self, batch: int) -> Feed:
        sizes = self._caches.items()
        return {name: np.zeros((batch, heads, 0, width), np.float32) for name, (_, heads, _, width) in sizes}


def pad_left(rows: Sequence[Sequence[int]], length: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, both (rows, longest row or `length`) int64; padding is id 0, which the mask hides."""
    longest = max(length, *map(len, rows))
    ids, mask = (np.zeros((len(rows), longest), np.int64) for _ in range(2))
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :], mask[i, longest - len(row) :] = row, 1
    return ids, mask


def _make_inputs(ids: np.ndarray, mask: np.ndarray) -> Feed:
    """Positions count real tokens from 0; those of padding matter to nobody."""
    positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
    return {"input_ids": ids, "attention_mask": mask, "position_ids": np.ascontiguousarray(positions)}
