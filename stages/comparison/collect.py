"""What the stages found, gathered: one row per task and model, means over its seeds."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.settings import BadInput, Compare

if TYPE_CHECKING:
    from numpy import ndarray

    from stages.tasks import Task

SIZES = ["layer_parameters", "parameters", "macs_per_token", "bytes"]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the verbs left what they found."""

    outputs: Path
    """The folder that has one per verb."""

    def of(self, *place: str) -> dict[str, Any]:
        """The metrics of a stage, `<verb>/<task>[/<recipe>[/<seed>]]`; empty, with a note, where it has not run."""
        path = self.outputs.joinpath(*place, "metrics.json")
        if path.is_file():
            return json.loads(path.read_text(encoding="utf8"))
        print(f"compare: {path} does not exist and is left out")
        return {}


@dataclass(frozen=True, kw_only=True)
class Model:
    """Teacher, student or rival on one task; lists have one entry per seed."""

    name: str
    scored: list[dict[str, Any]] = field(default_factory=list)
    """What evaluate or baseline says of it: score, interval, sizes."""
    predictions: list[Path] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Time in training, 0 for one that was not trained."""
    histories: list[Path] = field(default_factory=list)
    """Its loss curves; empty tables for one that was not trained."""


def models(task: str, recipes: list[str], seeds: list[int], sources: Sources) -> list[Model]:
    """The teacher, the main chain's student, and the rivals that have been run."""
    found = []
    scores = sources.of("evaluate", task)
    for name in [name for name in ("teacher", "student") if name in scores]:
        model = Model(name=name, scored=[scores[name]])
        model.predictions.append(sources.outputs / "evaluate" / task / "predictions" / f"{name}.csv")
        verb = {"teacher": "finetune", "student": "distill"}[name]
        if trained := sources.of(verb, task):
            model.seconds.append(trained["seconds"])
            model.histories.append(sources.outputs / verb / task / "history.csv")
        found.append(model)
    for name in recipes:
        model = Model(name=name)
        for seed in map(str, seeds):
            if metrics := sources.of("baseline", task, name, seed):
                folder = sources.outputs / "baseline" / task / name / seed
                model.scored.append(metrics["student"])
                model.seconds.append(metrics["seconds"])
                model.predictions.append(folder / "predictions.csv")
                model.histories.append(folder / "history.csv")
        if model.scored:
            found.append(model)
    return found


def rows(
    name: str, task: "Task", found: list[Model], sources: Sources, settings: Compare, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """One row per model: score and interval (points), retention (%), p against the best student, sizes (counts,
    bytes), p50 latency (milliseconds), speed-up over the teacher, training time (seconds), NaN where not known; of a
    language model also perplexity, where the task has it.

    The interval is that of evaluate for one seed; for several, seeds are drawn together with examples.

    Raises:
        BadInput: two models were scored on different examples.
    """
    from stages.tasks.significance import interval, p_value

    values = _resampled(task, found, resamples, seed)
    means = {model.name: _mean(row["score"] for row in model.scored) for model in found}
    students = [model.name for model in found if model.name != "teacher"]
    best = max(students, key=means.__getitem__, default="teacher")
    speeds = _speeds(name, [model.name for model in found], sources, settings)
    table = []
    for model in found:
        own = values[model.name]
        low, high = model.scored[0]["interval"] if len(own) == 1 else interval(own, seed)
        row = {"task": name, "model": model.name, "seeds": len(own), "score": means[model.name]}
        row |= {"low": low, "high": high, "retention": _retention(means, model.name)}
        if "perplexity" in task.metrics:
            row["perplexity"] = _mean(scored["metrics"]["perplexity"] for scored in model.scored)
        row["p"] = float("nan") if model.name == best else p_value(own, values[best])
        row |= {size: model.scored[0].get(size) for size in SIZES}
        row |= speeds[model.name] | {"seconds": _mean(model.seconds)}
        table.append(row)
    return table


def _resampled(task: "Task", found: list[Model], resamples: int, seed: int) -> "dict[str, ndarray]":
    import numpy as np

    from stages.tasks.predictions import read_predictions
    from stages.tasks.significance import resampled

    logits, labels = {}, None
    for model in found:
        read = [read_predictions(path) for path in model.predictions]
        for path, (_, own) in zip(model.predictions, read, strict=True):
            labels = own if labels is None else labels
            if not np.array_equal(labels, own):
                first = found[0].predictions[0]
                raise BadInput(f"{path} and {first} are not of the same examples; run `dvc repro` to score them again")
        logits[model.name] = np.stack([said for said, _ in read])
    return resampled(task, logits, labels, resamples, seed)


def _speeds(task: str, names: list[str], sources: Sources, settings: Compare) -> dict[str, dict[str, float]]:
    """p50 (milliseconds) and speed-up of each model.

    Each rival was timed in turns with the teacher: its latency is the benchmark's teacher's over that speed-up, so
    that one machine's quiet and busy hours do not tell rivals apart; its own where there is no benchmark.
    """
    found = {name: {"p50_ms": float("nan"), "speedup": float("nan")} for name in names}
    measured = sources.of("benchmark", task)
    shown = [cell for cell in measured.get("cells", []) if _wanted(cell, settings)]
    cells = {cell["model"]: cell["p50_ms"] for cell in shown}
    if measured and not cells:
        print(f"compare: {task} has no latency for {cell_of(settings)}; benchmark measures, compare names it")
    if "teacher" in cells:
        found["teacher"] = {"p50_ms": cells["teacher"], "speedup": 1.0}
    if {"teacher", "student"} <= cells.keys():
        decoder = ["decode"] * (shown[0].get("phase") == "decode")
        key = "/".join(map(str, (settings.variant, *decoder, settings.length, settings.batch_size)))
        found["student"] = {"p50_ms": cells["student"], "speedup": measured["ratio"][key]}
    for name in names:
        if name not in ("teacher", "student") and (raced := sources.of("race", task, name)):
            if raced["load"] > raced["cores"]:
                busy = f"load {raced['load']:.1f} on {raced['cores']} cores"
                print(f"compare: others used the machine ({busy}) while {name} was timed: do not trust its latency")
            own = cells["teacher"] / raced["speedup"] if "teacher" in cells else raced["p50_ms"]
            found[name] = {"p50_ms": own, "speedup": raced["speedup"]}
    return found


def _wanted(cell: dict[str, Any], settings: Compare) -> bool:
    """Of a decoder, what is shown is the time of a step."""
    variant = "fp32" if cell["model"] == "teacher" else settings.variant
    here = (cell["variant"], str(cell["length"]), cell["batch_size"])
    return here == (variant, str(settings.length), settings.batch_size) and cell.get("phase") != "prefill"


def cell_of(settings: Compare) -> str:
    """The cell of the benchmark that is shown, in words."""
    return f"{settings.variant}, length {settings.length}, batch {settings.batch_size}"


def _retention(means: dict[str, float], model: str) -> float:
    teacher = means.get("teacher")
    return 100 * means[model] / teacher if teacher else float("nan")


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
