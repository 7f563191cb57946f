"""Chains of stages on tiny tasks: a prepared task, its teacher and its student; and distillations of that student."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.distill import distill
from stages.factorize import factorize
from stages.finetune import finetune
from stages.models import loading
from stages.schema.task import Task
from stages.settings import Base, Distill, Factorize, Finetune
from tests.makers.runs import make_work, measure_drift, prepare_task, read_weights

SHORT = {"epochs": 2, "batch_size": 16, "log_every": 1, "learning_rate": 1e-3, "warmup_ratio": 0.0}
"""Settings of a training of a few seconds."""
SHORT_CAUSAL = SHORT | {"epochs": 1, "batch_size": 8}
"""The same for a causal language model."""
MAKD: dict[str, Any] = {"kl": {}, "attention_kl": {}, "hidden": {}, "matrices": {}}
"""The terms of the default objectives."""
SVD_STUDENT = Factorize(budget=0.6, multiple_of=1, decomposition="svd")


def make_chain(
    folder: Path,
    model: Path,
    source: Path,
    name: str,
    task: Task,
    settings: Finetune,
    *,
    student: Factorize = SVD_STUDENT,
    **prepare: Any,
) -> Path:
    """A folder with what `prepare`, `finetune` and `factorize` make of a task, each in the folder of its name."""
    prepare_task(model, source, folder / "prepare", name, task, **prepare)
    make_models(folder, model, settings, student)
    return folder


def make_models(folder: Path, model: Path, settings: Finetune, student: Factorize = SVD_STUDENT) -> None:
    """The teacher and the student of the task that is prepared in the folder."""
    data = folder / "prepare/data"
    finetune(settings, make_work(folder / "finetune"), base=Base(model=str(model)), data=data)
    factorize(student, make_work(folder / "factorize"), data=data, teacher=folder / "finetune/model")


def run_distill(chain: Path, output: Path, *, seed: int = 1, **changes: Any) -> dict[str, float]:
    """Distills the chain's student with settings that differ from SHORT in `changes`."""
    return distill(
        Distill.model_validate(SHORT | changes),
        make_work(output, seed=seed),
        data=chain / "prepare/data",
        teacher=chain / "finetune/model",
        student=chain / "factorize/model",
    )


def run_finetune(data: Path, base: Path, output: Path, **settings: Any) -> dict[str, float]:
    """Trains a base model on prepared data."""
    return finetune(Finetune.model_validate(settings), make_work(output), base=Base(model=str(base)), data=data)


def distill_with_each_hierarchy(chain: Path, folder: Path, batch_size: int) -> None:
    """One epoch into `joint` and `progressive`, in which not every part of the student is trained in every step."""
    for hierarchy in ("joint", "progressive"):
        schedule = {"hierarchy": hierarchy, "phase_shares": [0.5, 0.0, 0.5], "epochs": 1}
        run_distill(chain, folder / hierarchy, batch_size=batch_size, **schedule)


def watch_loading(monkeypatch: pytest.MonkeyPatch, hook: Callable[[Path, torch.nn.Module], None]) -> None:
    """Calls `hook(folder, model)` with every checkpoint that a stage loads."""
    original = loading.load_checkpoint

    def load_and_watch(folder: Path, **options: Any) -> torch.nn.Module:
        model = original(folder, **options)
        hook(folder, model)
        return model

    monkeypatch.setattr(loading, "load_checkpoint", load_and_watch)


def measure_student_drift(a: Path, b: Path) -> float:
    """The largest difference between the weights of the students in two outputs of `distill`.

    Without the keys' biases: they add the same to all scores of a query, which the softmax takes out again, so that
    their gradient is rounding noise and Adam makes steps of it (seen: 3e-4 in them, 4e-5 at most elsewhere).
    """
    weights = [read_weights(output / "model") for output in (a, b)]
    compared = [{n: w for n, w in each.items() if not (".key." in n and n.endswith("bias"))} for each in weights]
    return measure_drift(*compared)
