"""Teacher's and student's graphs in; latency, throughput and memory side by side out.

All models answer the same batches in the same process, through ONNX Runtime with a fixed number of threads
that do not spin. They take turns (timing/rounds.py); the figure that counts is the ratio, teacher's time over student's
within one round, median over the rounds; above 1 the student is faster. Tokenizing, the same for all, is not timed.
Of classifiers a request is timed; of decoders prefill, by the prompt token, and decode, by the step
(timing/workloads.py).

Length `real`: batches of validation sentences drawn with a seed, padded to the longest of the batch.

    python -m stages.benchmark --task sst2

A running service is put under load by `python -m serving.load http://...`.
"""

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.settings import Benchmark
from stages.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stages.tracking import Run

TEACHER = "teacher/fp32"


def benchmark(
    settings: Benchmark, work: Workspace, *, name: str, data: Path, teacher: Path, student: Path
) -> dict[str, Any]:
    """Writes `metrics.json` and `latency.png`; returns the metrics (milliseconds, sentences or tokens/s, bytes).

    Args:
        name: the task's name; the latency is put on the model registered as `makd-<name>`.
        teacher, student: folders that export wrote.

    Raises:
        BadInput: the provider is not there, or a folder is not what export wrote.
    """
    from stages.kinds import get_kind
    from stages.progress import track
    from stages.tasks.splits import read_task
    from stages.timing.rounds import measure_speedup, open_timed_model, time_in_turns

    before, variants = os.getloadavg(), _list_variants(settings, teacher, student)
    models = {model: open_timed_model(settings, *place) for model, place in variants.items()}
    workload = get_kind(read_task(data)).make_workload(data)
    for length in settings.lengths:
        workload.require_length("benchmark.lengths has", length, models[TEACHER])
    timed = {model: workload.list_phases(opened) for model, opened in models.items()}
    grid = list(product(settings.lengths, settings.batch_sizes, timed[TEACHER]))
    cells, ratio = [], {}
    for length, size, phase in track(grid, f"benchmark {name}", unit="cells"):
        draw = workload.make_draw(models[TEACHER], length, size, work.seed)
        rounds = time_in_turns({model: own[phase] for model, own in timed.items()}, draw, settings.seconds)
        cells += [_make_cell(model, phase, length, size, times) for model, times in rounds.items()]
        for model in list(rounds)[1:]:
            key = (model.removeprefix("student/"), *_name_phase(phase), length, size)
            ratio["/".join(map(str, key))] = measure_speedup(rounds, TEACHER, model)
    metrics = {
        "cells": cells,
        "ratio": ratio,
        "threads": settings.threads,
        "provider": settings.provider,
        "load": {"before": before[0], "after": os.getloadavg()[0], "cores": os.cpu_count()},
        "bytes": {model: opened.path.stat().st_size for model, opened in models.items()},
        "resident_bytes": {model: _measure_memory(settings, *place) for model, place in variants.items()},
    }
    (work.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf8")
    _plot_latency(name, settings, cells, workload.units, work.output / "latency.png")
    _track(work.run, name, metrics)
    return metrics


def _list_variants(settings: Benchmark, teacher: Path, student: Path) -> dict[str, tuple[Path, str]]:
    """Folder and variant of each model; a variant that export refused is left out."""
    rows = json.loads((student / "manifest.json").read_text(encoding="utf8"))["variants"]
    variants = [variant for variant in settings.variants if "refused" not in rows.get(variant, {})]
    return {TEACHER: (teacher, "fp32")} | {f"student/{variant}": (student, variant) for variant in variants}


def _make_cell(name: str, phase: str, length: str | int, size: int, rounds: list[list[float]]) -> dict[str, Any]:
    from stages.timing.rounds import summarize_latency

    model, variant = name.split("/")
    cell = {"model": model, "variant": variant, "phase": phase, "length": length, "batch_size": size}
    return cell | summarize_latency(rounds, 1 if phase == "prefill" else size)


def _name_phase(phase: str) -> tuple[str, ...]:
    """Its part in a name: none where there is only one."""
    return () if phase == "request" else (phase,)


def _measure_memory(settings: Benchmark, folder: Path, variant: str) -> int:
    """Memory that a model adds to a process of its own when loaded and run once, in bytes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure_growth, settings, folder, variant).result()


def _measure_growth(settings: Benchmark, folder: Path, variant: str) -> int:
    import onnxruntime  # noqa: F401  (its own memory is not the model's)
    import psutil
    import tokenizers  # noqa: F401

    from stages.timing.rounds import open_timed_model

    before = psutil.Process().memory_info().rss
    open_timed_model(settings, folder, variant).warm_up()
    return psutil.Process().memory_info().rss - before


def _plot_latency(
    name: str, settings: Benchmark, cells: list[dict[str, Any]], units: "Mapping[str, str]", path: Path
) -> None:
    """Milliseconds a sentence or token (p50), one row per phase, one panel per length, bars side by side."""
    from matplotlib.figure import Figure

    phases, lengths = list(dict.fromkeys(cell["phase"] for cell in cells)), settings.lengths
    figure = Figure(figsize=(1 + 5 * len(lengths), 0.5 + 4 * len(phases)), layout="constrained")
    models = list(dict.fromkeys((cell["model"], cell["variant"]) for cell in cells))
    grid = figure.subplots(len(phases), len(lengths), squeeze=False)
    for axes, (phase, length) in zip(grid.flat, product(phases, lengths), strict=True):
        shown = [cell for cell in cells if (cell["phase"], cell["length"]) == (phase, length)]
        for k, model in enumerate(models):
            own = [c for c in shown if (c["model"], c["variant"]) == model]
            places = [i + 0.8 * (k - (len(models) - 1) / 2) / len(models) for i in range(len(own))]
            heights = [c["p50_ms"] / (1 if phase == "prefill" else c["batch_size"]) for c in own]
            bars = axes.bar(places, heights, 0.75 / len(models), label=" ".join(model))
            axes.bar_label(bars, fmt="%.3g", fontsize=8)
        axes.set_xticks(range(len(settings.batch_sizes)), settings.batch_sizes)
        title = ", ".join((*_name_phase(phase), "real lengths" if length == "real" else f"{length} tokens"))
        axes.set(title=title, xlabel="batch size", ylabel=f"p50, ms per {units[phase]}", ymargin=0.1)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.suptitle(f"{name}: ONNX Runtime, {settings.provider}, {settings.threads} thread(s)")
    figure.savefig(path, dpi=120)


def _track(run: "Run", name: str, metrics: dict[str, Any]) -> None:
    values = {f"ratio/{key}": value for key, value in metrics["ratio"].items()}
    for cell in metrics["cells"]:
        parts = (cell["model"], cell["variant"], *_name_phase(cell["phase"]), cell["length"], cell["batch_size"])
        key = "/".join(map(str, parts))
        values |= {f"{key}/{figure}": cell[figure] for figure in ("p50_ms", "p95_ms", "p99_ms", "per_second")}
    run.log_metrics(values | {f"resident_bytes/{model}": size for model, size in metrics["resident_bytes"].items()})
    first = next(c for c in metrics["cells"] if c["model"] == "student" and c["phase"] != "prefill")
    run.tag_challenger(f"makd-{name}", {"latency_ms": round(first["p50_ms"], 3)})
    key = next(iter(key for key in metrics["ratio"] if "prefill" not in key))
    run.log_headline({f"{name}/latency_ms": first["p50_ms"], f"{name}/speedup": metrics["ratio"][key]})


def report(name: str, metrics: dict[str, Any]) -> str:
    """One line per ratio, for the terminal."""
    ratios = metrics["ratio"].items()
    return "\n".join(f"{name}: student {key}, {value:.2f} x the teacher's speed" for key, value in ratios)


if __name__ == "__main__":
    with command("benchmark", Benchmark, __doc__, "task") as job:
        measured = benchmark(
            job.params.benchmark,
            job.work,
            name=job.name,
            data=job.find_output("prepare", "data"),
            teacher=job.find_output("teacher"),
            student=job.find_output("export"),
        )
        print(report(job.name, measured))
