"""The outputs of the stages as `compare` reads them: two tasks, two baselines with two seeds each, a benchmark."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from stages.compare import ComparisonInputs, compare
from stages.kinds import get_kind
from stages.schema.glue import GLUE
from stages.settings import Compare, Distill, Factorize
from stages.tasks.predictions import Predictions, write_predictions
from stages.tracking import Run
from tests.makers.runs import make_work

TASKS = {name: GLUE[name] for name in ("sst2", "cola")}
STUDENTS = {
    "student": (Factorize(), Distill()),
    "svd": (Factorize(decomposition="svd"), None),
    "kd": (Factorize(), Distill(learning_rate=1e-4)),
}
LABELS = np.tile([0, 1], 100)
HISTORY = "step,epoch,loss,loss/kl\n1,0.5,2.0,1.0\n2,1.0,1.0,0.5\n"


def make_predictions(wrong: int, shift: int = 0, labels: np.ndarray = LABELS) -> Predictions:
    """Logits (200, 2) with so many wrong predictions, every third from `shift` on."""
    predicted = LABELS.copy()
    rows = (shift + 3 * np.arange(wrong)) % 200
    predicted[rows] = 1 - predicted[rows]
    return Predictions(values=np.eye(2, dtype=np.float32)[predicted], targets=labels)


def save_predictions(path: Path, task: str, predictions: Predictions) -> None:
    """As evaluate and baseline do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(path, predictions, get_kind(TASKS[task]).make_scorer(TASKS[task]).name_columns(predictions))


def make_row(task: str, predictions: Predictions, size: int) -> dict[str, Any]:
    """The figures that evaluate and baseline write of one model, with an interval that only they can have written."""
    score = get_kind(TASKS[task]).make_scorer(TASKS[task]).compute_scores(predictions)[TASKS[task].metrics[0]]
    sizes = {"parameters": 2 * size, "layer_parameters": size, "macs_per_token": 3 * size, "bytes": 8 * size}
    return {"score": score, "interval": [score - 1.25, score + 2.25], "metrics": {}} | sizes


def write_metrics(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def write_baseline(outputs: Path, name: str, seed: int, predictions: Predictions, seconds: float, history: str) -> None:
    """One seed of a baseline on sst2."""
    folder = outputs / "baseline/sst2" / name / str(seed)
    write_metrics(folder, {"student": make_row("sst2", predictions, 5_000_000), "seconds": seconds})
    save_predictions(folder / "predictions.csv", "sst2", predictions)
    (folder / "history.csv").write_text(history)


def write_outputs(outputs: Path) -> Path:
    """Two tasks evaluated; on sst2 two baselines with two seeds each, one of them timed, and a benchmark."""
    for task in TASKS:
        models = {"teacher": (make_predictions(20), 10_000_000), "student": (make_predictions(22, 1), 5_000_000)}
        rows = {name: make_row(task, predictions, size) for name, (predictions, size) in models.items()}
        folder = write_metrics(outputs / "evaluate" / task, rows)
        for name, (predictions, _) in models.items():
            save_predictions(folder / "predictions" / f"{name}.csv", task, predictions)
        for verb, seconds in (("finetune", 60.0), ("distill", 90.0)):
            (write_metrics(outputs / verb / task, {"seconds": seconds}) / "history.csv").write_text(HISTORY)
    for seed, wrong in ((1, 80), (2, 84)):
        write_baseline(outputs, "svd", seed, make_predictions(wrong), 0.0, "step,epoch,loss\n")
        write_baseline(outputs, "kd", seed, make_predictions(wrong // 3, seed), 10.0 * seed, HISTORY)
    cells = [
        ("teacher", "fp32", "real", 1, 10.0), ("student", "fp32", "real", 1, 4.0), ("student", "int8", "real", 1, 2.5),
        ("teacher", "fp32", 128, 8, 100.0), ("student", "int8", 128, 8, 20.0),
    ]  # fmt: skip
    keys = ("model", "variant", "length", "batch_size", "p50_ms")
    ratio = {"fp32/real/1": 2.6, "int8/real/1": 4.1, "int8/128/8": 5.5}
    benchmark = {"cells": [dict(zip(keys, cell, strict=True)) for cell in cells], "ratio": ratio}
    write_metrics(outputs / "benchmark/sst2", benchmark)
    write_metrics(outputs / "time_baselines/sst2/kd", {"p50_ms": 15.0, "speedup": 2.0, "load": 4.5, "cores": 4})
    write_metrics(outputs / "time_baselines/sst2/svd", {})  # time_baselines.enabled: false
    return outputs


def run_compare(outputs: Path, settings: Compare | None = None, run: Run | None = None, **changes: Any) -> Path:
    """The folder that compare wrote, beside the outputs."""
    defaults = {"tasks": TASKS, "students": STUDENTS, "seeds": [1, 2], "resamples": 500}
    work = make_work(outputs.parent / "compared", seed=0, run=run)
    compare(settings or Compare(), work, ComparisonInputs(outputs=outputs, **defaults | changes))
    return work.output
