"""Verbs run on tiny tasks, as the command line would run them."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from stages.prepare import prepare
from stages.schema.task import Task
from stages.settings import Base, Data, Prepare
from stages.tracking import Run
from stages.workspace import Workspace


def make_work(output: Path, *, seed: int = 1, run: Run | None = None) -> Workspace:
    """A workspace with its output folder made, and its state in there."""
    output.mkdir(parents=True, exist_ok=True)
    return Workspace(output=output, state=output / "state", seed=seed, run=run or Run())


def prepare_task(
    model: Path, source: Path, output: Path, name: str, task: Task, **settings: Any
) -> tuple[Path, dict[str, Any]]:
    """What `prepare` makes of a task: the folder of its data, its metrics."""
    metrics = prepare(
        Prepare.model_validate({"max_length": 32} | settings),
        make_work(output),
        name=name,
        task=task,
        data=Data(source=str(source)),
        base=Base(model=str(model)),
    )
    return output / "data", metrics


def read_weights(model: Path) -> dict[str, torch.Tensor]:
    """Of a saved model."""
    return load_file(model / "model.safetensors")


def measure_drift(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference between two models' weights."""
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def hash_files(folder: Path) -> dict[str, str]:
    """Relative path -> MD5 of the content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest() for p in files}
