"""Rows of a CSV file that a stopped benchmark goes on after, and the trainings that make them, side by side."""

import csv
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stages.tracking import Run
from stages.workspace import Workspace

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf8") as file:
        return list(csv.DictReader(file))


def append_row(path: Path, row: Row, columns: list[str]) -> None:
    """Adds a row, in the columns of the file; of a new file, in these."""
    rows = read_rows(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else columns, restval="", extrasaction="ignore")
        if not rows:
            writer.writeheader()
        writer.writerow(row)


def make_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that end after a model each: otherwise they would hold the memory that their models needed."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1)


def run_jobs(pool: ProcessPoolExecutor, work: Callable[..., Any], jobs: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """What `work` returns for each job's arguments, in the order in which they end; an error stops the others."""
    for future in as_completed([pool.submit(work, *job) for job in jobs]):
        if error := future.exception():
            pool.shutdown(cancel_futures=True)
            raise error
        yield future.result()


def make_workspace(folder: Path, seed: int) -> Workspace:
    """A folder without what a stopped run left there, but for its checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "state":
            shutil.rmtree(entry)
    return Workspace(output=folder, state=folder / "state", seed=seed, run=Run())
