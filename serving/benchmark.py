"""Teacher's and student's graphs in; latency, throughput and memory side by side out.

All models answer the same batches in the same process, through ONNX Runtime with a fixed number of threads
that do not spin. They take turns (timing.py); the figure that counts is the ratio, teacher's time over student's
within one round, median over the rounds; above 1 the student is faster. Tokenizing, the same for all, is not timed.
Of classifiers a request is timed; of decoders prefill, by the prompt token, and decode, by the step (pace.py).

Length `real`: batches of validation sentences drawn with a seed, padded to the longest of the batch.

    python -m serving.benchmark --task sst2

An address in place of a task puts a running service under load (load/): `python -m serving.benchmark http://...`.
"""

import json
import multiprocessing
import os
import runpy
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.pace import UNITS, draws, longest, phases
from serving.timing import check_length, latency, opened, speed_up, take_turns
from stages.command import command
from stages.settings import Benchmark

if TYPE_CHECKING:
    from stages.tracking import Run

TEACHER = "teacher/fp32"


def benchmark(
    settings: Benchmark,
    *,
    name: str,
    data: Path,
    teacher: Path,
    student: Path,
    output: Path,
    seed: int,
    run: "Run",
) -> dict[str, Any]:
    """Writes `metrics.json` and `latency.png`; returns the metrics (milliseconds, sentences or tokens/s, bytes).

    Args:
        name: the task's name; the latency is put on the model registered as `makd-<name>`.
        teacher, student: folders that export wrote.

    Raises:
        BadInput: the provider is not there, or a folder is not what export wrote.
    """
    from tqdm import tqdm

    before, places = os.getloadavg(), _places(settings, teacher, student)
    models = {who: opened(settings, *place) for who, place in places.items()}
    for length in settings.lengths:
        check_length("benchmark.lengths has", length, longest(models[TEACHER]))
    timed = {who: phases(model) for who, model in models.items()}
    grid = product(settings.lengths, settings.batch_sizes, timed[TEACHER])
    cells, ratio = [], {}
    for length, size, phase in tqdm(list(grid), desc="benchmark", unit="cell"):
        draw = draws(models[TEACHER], data, length, size, seed)
        rounds = take_turns({who: own[phase] for who, own in timed.items()}, draw, settings.seconds)
        cells += [_cell(who, phase, length, size, times) for who, times in rounds.items()]
        for who in list(rounds)[1:]:
            key = (who.removeprefix("student/"), *_phase(phase), length, size)
            ratio["/".join(map(str, key))] = speed_up(rounds, TEACHER, who)
    metrics = {
        "cells": cells,
        "ratio": ratio,
        "threads": settings.threads,
        "provider": settings.provider,
        "load": {"before": before[0], "after": os.getloadavg()[0], "cores": os.cpu_count()},
        "bytes": {who: model.path.stat().st_size for who, model in models.items()},
        "resident_bytes": {who: _resident(settings, *place) for who, place in places.items()},
    }
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf8")
    _plot(name, settings, cells, output / "latency.png")
    _track(run, name, metrics)
    return metrics


def _places(settings: Benchmark, teacher: Path, student: Path) -> dict[str, tuple[Path, str]]:
    """Folder and variant of each model; a variant that export refused is left out."""
    rows = json.loads((student / "manifest.json").read_text(encoding="utf8"))["variants"]
    variants = [variant for variant in settings.variants if "refused" not in rows.get(variant, {})]
    return {TEACHER: (teacher, "fp32")} | {f"student/{variant}": (student, variant) for variant in variants}


def _cell(who: str, phase: str, length: str | int, size: int, rounds: list[list[float]]) -> dict[str, Any]:
    model, variant = who.split("/")
    place = {"model": model, "variant": variant, "phase": phase, "length": length, "batch_size": size}
    return place | latency(rounds, 1 if phase == "prefill" else size)


def _phase(phase: str) -> tuple[str, ...]:
    """Its part in a name: none where there is only one."""
    return () if phase == "request" else (phase,)


def _resident(settings: Benchmark, folder: Path, variant: str) -> int:
    """Memory that a model adds to a process of its own when loaded and run once, in bytes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_grown, settings, folder, variant).result()


def _grown(settings: Benchmark, folder: Path, variant: str) -> int:
    import onnxruntime  # noqa: F401  (its own memory is not the model's)
    import psutil
    import tokenizers  # noqa: F401

    before = psutil.Process().memory_info().rss
    opened(settings, folder, variant).warm_up()
    return psutil.Process().memory_info().rss - before


def _plot(name: str, settings: Benchmark, cells: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds a sentence or token (p50), one row per phase, one panel per length, bars side by side."""
    from matplotlib.figure import Figure

    shown, lengths = list(dict.fromkeys(cell["phase"] for cell in cells)), settings.lengths
    figure = Figure(figsize=(1 + 5 * len(lengths), 0.5 + 4 * len(shown)), layout="constrained")
    whos = list(dict.fromkeys((cell["model"], cell["variant"]) for cell in cells))
    grid = figure.subplots(len(shown), len(lengths), squeeze=False)
    for axes, (phase, length) in zip(grid.flat, product(shown, lengths), strict=True):
        here = [cell for cell in cells if (cell["phase"], cell["length"]) == (phase, length)]
        for k, who in enumerate(whos):
            own = [c for c in here if (c["model"], c["variant"]) == who]
            places = [i + 0.8 * (k - (len(whos) - 1) / 2) / len(whos) for i in range(len(own))]
            heights = [c["p50_ms"] / (1 if phase == "prefill" else c["batch_size"]) for c in own]
            bars = axes.bar(places, heights, 0.75 / len(whos), label=" ".join(who))
            axes.bar_label(bars, fmt="%.3g", fontsize=8)
        axes.set_xticks(range(len(settings.batch_sizes)), settings.batch_sizes)
        title = ", ".join((*_phase(phase), "real lengths" if length == "real" else f"{length} tokens"))
        axes.set(title=title, xlabel="batch size", ylabel=f"p50, ms per {UNITS[phase]}", ymargin=0.1)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.suptitle(f"{name}: ONNX Runtime, {settings.provider}, {settings.threads} thread(s)")
    figure.savefig(path, dpi=120)


def _track(run: "Run", name: str, metrics: dict[str, Any]) -> None:
    found = {f"ratio/{key}": value for key, value in metrics["ratio"].items()}
    for cell in metrics["cells"]:
        key = (cell["model"], cell["variant"], *_phase(cell["phase"]), cell["length"], cell["batch_size"])
        key = "/".join(map(str, key))
        found |= {f"{key}/{figure}": cell[figure] for figure in ("p50_ms", "p95_ms", "p99_ms", "per_second")}
    run.metrics(found | {f"resident_bytes/{who}": size for who, size in metrics["resident_bytes"].items()})
    first = next(c for c in metrics["cells"] if c["model"] == "student" and c["phase"] != "prefill")
    run.tag_model(f"makd-{name}", {"latency_ms": round(first["p50_ms"], 3)})


def report(name: str, metrics: dict[str, Any]) -> str:
    """One line per ratio, for the terminal."""
    ratios = metrics["ratio"].items()
    return "\n".join(f"{name} student {key}: {value:.2f} x the teacher's speed" for key, value in ratios)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].startswith("http"):
        runpy.run_module("serving.load", run_name="__main__")
    else:
        with command(Benchmark, __doc__, "task") as job:
            made = benchmark(
                job.params.benchmark,
                name=job.name,
                data=job.of("prepare", "data"),
                teacher=job.of("teacher"),
                student=job.of("export"),
                output=job.output,
                seed=job.params.seed,
                run=job.run,
            )
            print(report(job.name, made))
