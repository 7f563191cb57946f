"""What the teacher says of every training example, computed once and read from disk: no epoch runs the teacher.

Of each row of logits z over C classes the k largest are kept, and the mass that the others have together, which they
get back in equal parts:

    z'_c = z_c  for the k largest,    log Σ_{j not kept} exp z_j − log(C − k)  for each of the others

The softmax of z' gives every kept class its own probability, and the objectives take z' for z. With k = C it is z. At
a temperature other than 1 the mass of the others is that of z', no longer quite that of z.

On disk is one record for each row, in one file that is mapped to memory: the largest logit, the distances of the k
largest from it (small numbers, which half precision holds well), their classes, the logarithm of the mass of the rest.

Source: top-k logits are common in distillation; equal parts for the others, and the format, are ours.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.distillation.rows import by_rows
from stages.settings import BadInput, Offline
from stages.tracking.context import is_main

Said = Iterator[tuple[Sequence[int], Tensor]]
"""Places of some examples in the training split, and their rows of logits in that order, (rows, classes)."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The records of a training split."""

    records: np.ndarray
    """(rows,), with the fields highest, rest (), below, classes (k,)."""
    starts: np.ndarray
    """Where the rows of each example begin, and the end, (examples + 1,)."""
    classes: int
    """C: how many the teacher tells apart."""

    def of(self, index: Sequence[int]) -> dict[str, Tensor]:
        """The records of these examples, (rows,) and (rows, k)."""
        found = self.records[_rows(self.starts, index)]
        tensors = {name: torch.from_numpy(np.ascontiguousarray(found[name])) for name in ("highest", "rest", "below")}
        return tensors | {"classes": torch.from_numpy(found["classes"].astype(np.int32))}

    def logits(self, said: dict[str, Tensor]) -> Tensor:
        """z' of records; (rows, C), float32."""
        kept = said["classes"].shape[1]
        others = said["rest"] - math.log(max(1, self.classes - kept))
        whole = others.unsqueeze(1).repeat(1, self.classes)
        return whole.scatter_(1, said["classes"].long(), said["highest"].unsqueeze(1) + said["below"].float())


class Beside:
    """A collator that puts the records of the batch's examples beside what another one makes of them.

    They are read where batches are made, so that no step waits for the disk, or for the device to say which to read.
    """

    PREFIX = "teacher."

    def __init__(self, collate: Callable[[list[dict]], dict[str, Tensor]], kept: Kept) -> None:
        self.collate, self.kept = collate, kept

    def __call__(self, examples: list[dict]) -> dict[str, Tensor]:
        batch = dict(self.collate(examples))
        said = self.kept.of(batch["index"].tolist()) if "index" in batch else {}  # validation has none
        return batch | {self.PREFIX + name: tensor for name, tensor in said.items()}

    def taken(self, inputs: dict[str, Tensor]) -> Tensor:
        """z' of a batch, whose records are taken out of it."""
        names = [name for name in inputs if name.startswith(self.PREFIX)]
        return self.kept.logits({name.removeprefix(self.PREFIX): inputs.pop(name) for name in names})


def keep(settings: Offline, path: Path, *, counts: Sequence[int], classes: int, said: Said) -> Kept:
    """What is in the file; where it is not there, what the teacher says is computed and written, whole or not at all.

    The first process does so, the others wait for it; where it fails, they all do.

    Args:
        path: named by all that decides its content; the other `*.npy` of its folder are removed.
        counts: rows of each example.

    Raises:
        BadInput: the disk has no room for it; in the other processes, that the first one failed.
    """
    starts = np.concatenate([[0], np.cumsum(counts)])
    failed = path.with_name(f"{path.name}.failed")
    if is_main():
        for other in {*path.parent.glob("*.npy*")} - {path}:
            other.unlink()
    if together := torch.distributed.is_initialized():
        torch.distributed.barrier()  # what an earlier run left is gone
    if is_main() and not path.exists():
        try:
            _write(path, _record(settings, classes), starts, said)
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
    return Kept(records=np.load(path, mmap_mode="r"), starts=starts, classes=classes)


def _record(settings: Offline, classes: int) -> np.dtype:
    kept = (min(settings.k, classes),)  # a tuple, also of 1
    whole = [("highest", np.float32), ("rest", np.float32)]
    return np.dtype([*whole, ("below", settings.dtype, kept), ("classes", np.min_scalar_type(classes - 1), kept)])


def _write(path: Path, record: np.dtype, starts: np.ndarray, said: Said) -> None:
    kind, (kept,) = record["below"].subdtype
    size = int(starts[-1]) * record.itemsize
    print(f"offline teacher: {starts[-1]:,} rows, {kept} logits of each in {kind}: {size:,} bytes, {path}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(path.parent).free) < size:
        raise BadInput(
            f"distill.offline needs {size:,} bytes in {path.parent}, which has {free:,}; set distill.offline.k below "
            f"{kept}, or distill.offline to null"
        )
    partial = path.with_name(f"{path.name}.partial")
    records = np.lib.format.open_memmap(partial, "w+", record, shape=(int(starts[-1]),))
    for index, logits in said:
        records[_rows(starts, index)] = _recorded(logits, record)
    records.flush()
    partial.replace(path)


def _recorded(logits: Tensor, record: np.dtype) -> np.ndarray:
    """(rows, classes) -> (rows,) records."""
    top = logits.float().topk(record["classes"].shape[0])
    rest = by_rows(lambda z, kept: z.scatter(-1, kept, -torch.inf).logsumexp(-1), logits, top.indices)
    found = np.empty(len(logits), record)
    highest = top.values[:, :1]
    fields = {"highest": highest[:, 0], "rest": rest, "below": top.values - highest, "classes": top.indices}
    for name, tensor in fields.items():
        found[name] = tensor.cpu().numpy()
    return found


def _rows(starts: np.ndarray, index: Sequence[int]) -> np.ndarray:
    """The rows of these examples, in their order."""
    return np.concatenate([np.arange(starts[i], starts[i + 1]) for i in index])
