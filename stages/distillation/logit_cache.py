"""Offline distillation: the teacher's logits of every training example, computed once and read from disk.

Of each row of logits z over C classes the k largest are cached, and the mass of all others, which is given back to them
in equal parts:

    z'_c = z_c  for the k largest,    log Σ_{j not cached} exp z_j − log(C − k)  for each of the others

The softmax of z' gives every cached class its own probability, and the objectives take z' for z. With k = C it is z. At
a temperature other than 1 the mass of the others is that of z', no longer quite that of z.

On disk is one record for each row, in one file that is mapped to memory: the largest logit, the distances of the k
largest from it (small numbers, which half precision holds well), their classes, the logarithm of the mass of the rest.

Source: top-k logits are common in distillation; equal parts for the others, and the format, are ours.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.errors import BadInput
from stages.objectives.row_chunks import map_row_chunks
from stages.settings import Offline
from stages.tracking.context import is_main

log = logging.getLogger(__name__)

TeacherLogits = Iterator[tuple[Sequence[int], Tensor]]
"""Indices of some examples in the training split, and their rows of logits in that order, (rows, classes)."""


@dataclass(frozen=True, kw_only=True)
class LogitCache:
    """The records of a training split."""

    records: np.ndarray
    """(rows,), with the fields highest, rest (), below, classes (k,)."""
    starts: np.ndarray
    """Where the rows of each example begin, and the end, (examples + 1,)."""
    classes: int
    """C: the teacher's."""

    def read(self, index: Sequence[int]) -> dict[str, Tensor]:
        """The records of these examples, (rows,) and (rows, k)."""
        records = self.records[_list_rows(self.starts, index)]
        tensors = {name: torch.from_numpy(np.ascontiguousarray(records[name])) for name in ("highest", "rest", "below")}
        return tensors | {"classes": torch.from_numpy(records["classes"].astype(np.int32))}

    def to_logits(self, records: dict[str, Tensor]) -> Tensor:
        """z' of records; (rows, C), float32."""
        cached = records["classes"].shape[1]
        others = records["rest"] - math.log(max(1, self.classes - cached))
        whole = others.unsqueeze(1).repeat(1, self.classes)
        return whole.scatter_(1, records["classes"].long(), records["highest"].unsqueeze(1) + records["below"].float())


class CachedLogitsCollator:
    """A collator that adds the records of the batch's examples to the batch that another one makes.

    They are read where batches are made, so that no step waits for the disk, or for the device.
    """

    PREFIX = "teacher."

    def __init__(self, collate: Callable[[list[dict]], dict[str, Tensor]], cache: LogitCache) -> None:
        self.collate, self.cache = collate, cache

    def __call__(self, examples: list[dict]) -> dict[str, Tensor]:
        batch = dict(self.collate(examples))
        records = self.cache.read(batch["index"].tolist()) if "index" in batch else {}  # validation has none
        return batch | {self.PREFIX + name: tensor for name, tensor in records.items()}

    def pop_logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """z' of a batch, whose records are removed from it."""
        names = [name for name in inputs if name.startswith(self.PREFIX)]
        return self.cache.to_logits({name.removeprefix(self.PREFIX): inputs.pop(name) for name in names})


def open_logit_cache(
    settings: Offline, path: Path, *, counts: Sequence[int], classes: int, logits: TeacherLogits
) -> LogitCache:
    """The cache in the file; where there is none, the teacher's logits are computed and written, whole or not at all.

    The first process does so, the others wait for it; where it fails, they all do.

    Args:
        path: named by a fingerprint of all that decides its content; the other `*.npy` of its folder are removed.
        counts: rows of each example.
        logits: consumed only where the file has to be written.

    Raises:
        BadInput: the disk has no room for it; in the other processes, that the first one failed.
    """
    starts = np.concatenate([[0], np.cumsum(counts)])
    failed = path.with_name(f"{path.name}.failed")
    if is_main():
        for other in {*path.parent.glob("*.npy*")} - {path}:
            other.unlink()
    if together := torch.distributed.is_initialized():
        torch.distributed.barrier()  # what an earlier run left is removed
    if is_main() and not path.exists():
        try:
            _write_records(path, _record_type(settings, classes), starts, logits)
        except BaseException as error:
            if together:
                reason = path.with_name(f"{path.name}.failing")
                reason.write_text(str(error) or type(error).__name__, encoding="utf8")
                reason.replace(failed)  # whole, or the others would read the beginning of a sentence
            raise
    while not path.exists():
        if failed.exists():
            raise BadInput(f"distill.offline failed in the first process: {failed.read_text(encoding='utf8')}")
        time.sleep(0.2)
    return LogitCache(records=np.load(path, mmap_mode="r"), starts=starts, classes=classes)


def _record_type(settings: Offline, classes: int) -> np.dtype:
    cached = (min(settings.k, classes),)  # a tuple, also of 1
    whole = [("highest", np.float32), ("rest", np.float32)]
    return np.dtype([*whole, ("below", settings.dtype, cached), ("classes", np.min_scalar_type(classes - 1), cached)])


def _write_records(path: Path, record: np.dtype, starts: np.ndarray, logits: TeacherLogits) -> None:
    dtype, (cached,) = record["below"].subdtype
    size = int(starts[-1]) * record.itemsize
    log.info(
        "distill: caching %d logits of each of %s rows in %s: %s bytes, %s",
        cached,
        f"{starts[-1]:,}",
        dtype,
        f"{size:,}",
        path,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(path.parent).free) < size:
        raise BadInput(
            f"distill.offline needs {size:,} bytes in {path.parent}, which has {free:,}; set distill.offline.k below "
            f"{cached}, or distill.offline to null"
        )
    partial = path.with_name(f"{path.name}.partial")
    records = np.lib.format.open_memmap(partial, "w+", record, shape=(int(starts[-1]),))
    for index, rows in logits:
        records[_list_rows(starts, index)] = _to_records(rows, record)
    records.flush()
    partial.replace(path)


def _to_records(logits: Tensor, record: np.dtype) -> np.ndarray:
    """(rows, classes) -> (rows,) records."""
    top = logits.float().topk(record["classes"].shape[0])
    rest = map_row_chunks(lambda z, cached: z.scatter(-1, cached, -torch.inf).logsumexp(-1), logits, top.indices)
    records = np.empty(len(logits), record)
    highest = top.values[:, :1]
    fields = {"highest": highest[:, 0], "rest": rest, "below": top.values - highest, "classes": top.indices}
    for name, tensor in fields.items():
        records[name] = tensor.cpu().numpy()
    return records


def _list_rows(starts: np.ndarray, index: Sequence[int]) -> np.ndarray:
    """The rows of these examples, in their order."""
    return np.concatenate([np.arange(starts[i], starts[i + 1]) for i in index])
