"""The results of the stages, collected: one row per task and model, means over its seeds."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from stages.errors import BadInput
from stages.settings import Compare
from stages.tasks.predictions import read_predictions
from stages.tasks.scorers import Scorer
from stages.tasks.significance import interval_over_seeds, paired_p_value, resample_scores

log = logging.getLogger(__name__)

SIZES = ["layer_parameters", "parameters", "macs_per_token", "bytes"]


@dataclass(frozen=True, kw_only=True)
class StageOutputs:
    """The outputs of the stages."""

    folder: Path
    """Has a folder per verb."""

    def read_metrics(self, *place: str) -> dict[str, Any]:
        """The metrics of a stage, `<verb>/<task>[/<recipe>[/<seed>]]`; empty, with a note, where it has not run."""
        path = self.folder.joinpath(*place, "metrics.json")
        if path.is_file():
            return json.loads(path.read_text(encoding="utf8"))
        log.info("compare: %s does not exist and is left out", path)
        return {}


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """Teacher, student or baseline on one task; lists have one entry per seed."""

    name: str
    scored: list[dict[str, Any]] = field(default_factory=list)
    """Evaluate's or baseline's row: score, interval, sizes."""
    predictions: list[Path] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Training time, 0 for one that was not trained."""
    histories: list[Path] = field(default_factory=list)
    """Its loss curves; empty tables for one that was not trained."""


def collect_models(task: str, recipes: list[str], seeds: list[int], outputs: StageOutputs) -> list[ComparedModel]:
    """The teacher, the main chain's student, and the baselines that have been run."""
    models = []
    scores = outputs.read_metrics("evaluate", task)
    for name in [name for name in ("teacher", "student") if name in scores]:
        model = ComparedModel(name=name, scored=[scores[name]])
        model.predictions.append(outputs.folder / "evaluate" / task / "predictions" / f"{name}.csv")
        verb = {"teacher": "finetune", "student": "distill"}[name]
        if trained := outputs.read_metrics(verb, task):
            model.seconds.append(trained["seconds"])
            model.histories.append(outputs.folder / verb / task / "history.csv")
        models.append(model)
    for name in recipes:
        model = ComparedModel(name=name)
        for seed in map(str, seeds):
            if metrics := outputs.read_metrics("baseline", task, name, seed):
                folder = outputs.folder / "baseline" / task / name / seed
                model.scored.append(metrics["student"])
                model.seconds.append(metrics["seconds"])
                model.predictions.append(folder / "predictions.csv")
                model.histories.append(folder / "history.csv")
        if model.scored:
            models.append(model)
    return models


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """The models of one task, and how they are compared."""

    task: str
    scorer: Scorer
    models: list[ComparedModel]
    outputs: StageOutputs
    settings: Compare
    resamples: int
    """Of the bootstrap."""
    seed: int
    """Of the resamples."""


def make_rows(comparison: TaskComparison) -> list[dict[str, Any]]:
    """One row per model: score and interval (points), retention (%), p against the best student, sizes (counts,
    bytes), p50 latency (milliseconds), speed-up over the teacher, training time (seconds), NaN where not known; of a
    language model also perplexity, where the task has it.

    The interval is that of evaluate for one seed; for several, seeds are drawn together with examples.

    Raises:
        BadInput: two models were scored on different examples.
    """
    models, scorer, seed = comparison.models, comparison.scorer, comparison.seed
    resampled = _resample(comparison)
    means = {model.name: _mean(row["score"] for row in model.scored) for model in models}
    students = [model.name for model in models if model.name != "teacher"]
    best = max(students, key=means.__getitem__, default="teacher")
    latencies = _collect_latencies(comparison)
    rows = []
    for model in models:
        own = resampled[model.name]
        low, high = model.scored[0]["interval"] if len(own) == 1 else interval_over_seeds(own, seed)
        row = {"task": comparison.task, "model": model.name, "seeds": len(own), "score": means[model.name]}
        row |= {"low": low, "high": high, "retention": _retention(means, model.name)}
        if "perplexity" in scorer.metrics:
            row["perplexity"] = _mean(scored["metrics"]["perplexity"] for scored in model.scored)
        row["p"] = float("nan") if model.name == best else paired_p_value(own, resampled[best])
        row |= {size: model.scored[0].get(size) for size in SIZES}
        row |= latencies[model.name] | {"seconds": _mean(model.seconds)}
        rows.append(row)
    return rows


def describe_cell(settings: Compare) -> str:
    """The cell of the benchmark that is shown, in words."""
    return f"{settings.variant}, length {settings.length}, batch {settings.batch_size}"


def _resample(comparison: TaskComparison) -> dict[str, ndarray]:
    models, targets = {}, None
    for model in comparison.models:
        models[model.name] = [read_predictions(path) for path in model.predictions]
        for path, predictions in zip(model.predictions, models[model.name], strict=True):
            targets = predictions.targets if targets is None else targets
            if not np.array_equal(targets, predictions.targets):
                first = comparison.models[0].predictions[0]
                raise BadInput(f"{path} and {first} are not of the same examples; run `dvc repro` to score them again")
    return resample_scores(comparison.scorer, models, comparison.resamples, comparison.seed)


def _collect_latencies(comparison: TaskComparison) -> dict[str, dict[str, float]]:
    """p50 (milliseconds) and speed-up of each model.

    Each baseline was timed in turns with the teacher: its latency is the benchmark's teacher's over that speed-up, so
    that one machine's quiet and busy hours do not favor one; its own where there is no benchmark.
    """
    task, settings = comparison.task, comparison.settings
    names = [model.name for model in comparison.models]
    latencies = {name: {"p50_ms": float("nan"), "speedup": float("nan")} for name in names}
    measured = comparison.outputs.read_metrics("benchmark", task)
    shown = [cell for cell in measured.get("cells", []) if _is_shown(cell, settings)]
    cells = {cell["model"]: cell["p50_ms"] for cell in shown}
    if measured and not cells:
        log.warning(
            "compare: benchmark has not measured %s for %s; set compare to what it has", describe_cell(settings), task
        )
    if "teacher" in cells:
        latencies["teacher"] = {"p50_ms": cells["teacher"], "speedup": 1.0}
    if {"teacher", "student"} <= cells.keys():
        decode = ["decode"] * (shown[0].get("phase") == "decode")
        key = "/".join(map(str, (settings.variant, *decode, settings.length, settings.batch_size)))
        latencies["student"] = {"p50_ms": cells["student"], "speedup": measured["ratio"][key]}
    for name in [name for name in names if name not in ("teacher", "student")]:
        if timed := comparison.outputs.read_metrics("time_baselines", task, name):
            if timed["load"] > timed["cores"]:
                log.warning(
                    "compare: %s was timed on a busy machine (load %.1f on %d cores): do not trust its latency",
                    name, timed["load"], timed["cores"],
                )  # fmt: skip
            own = cells["teacher"] / timed["speedup"] if "teacher" in cells else timed["p50_ms"]
            latencies[name] = {"p50_ms": own, "speedup": timed["speedup"]}
    return latencies


def _is_shown(cell: dict[str, Any], settings: Compare) -> bool:
    """Of a decoder, the time of a step is shown."""
    variant = "fp32" if cell["model"] == "teacher" else settings.variant
    key = (cell["variant"], str(cell["length"]), cell["batch_size"])
    return key == (variant, str(settings.length), settings.batch_size) and cell.get("phase") != "prefill"


def _retention(means: dict[str, float], model: str) -> float:
    teacher = means.get("teacher")
    return 100 * means[model] / teacher if teacher else float("nan")


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
