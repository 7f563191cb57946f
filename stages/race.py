"""A rival and its teacher in; how much faster the rival is out.

The rival is traced to an fp32 graph in a temporary folder, checked against PyTorch, and timed in turns with the
teacher's graph, as `benchmark` does it with the main chain's student, in the one cell that `compare` shows. A stage of
its own, so that neither this code nor these settings ever make a rival train again.

    python -m stages.race --task sst2 --recipe lowrank_kd
"""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from serving.pace import draws, longest, phases
from serving.timing import check_length, latency, opened, speed_up, take_turns
from stages.command import command
from stages.settings import Benchmark, Compare, Export, Race

if TYPE_CHECKING:
    from serving.predictor import Predictor
    from stages.tracking import Run


def race(
    settings: Race,
    timing: Benchmark,
    cell: Compare,
    checks: Export,
    *,
    data: Path,
    teacher: Path,
    rival: Path,
    output: Path,
    seed: int,
    run: "Run",
) -> dict[str, Any]:
    """Writes `metrics.json`, an empty object where `race.enabled` is false; returns the metrics.

    Args:
        timing: threads, provider and seconds.
        cell: length and batch size.
        checks: how far the graph's logits may be from PyTorch's.
        teacher: the folder that export wrote of it.
        rival: the folder of its PyTorch model.

    Raises:
        BadInput: the graph differs from PyTorch, the provider is not there, or `compare.length` cannot be read.
    """
    metrics: dict[str, Any] = {}
    if settings.enabled:
        models = {"teacher": opened(timing, teacher, "fp32")}
        check_length("compare.length is", cell.length, longest(models["teacher"]))
        with TemporaryDirectory() as folder:
            _trace(rival, Path(folder), teacher, checks, data, seed)
            models["rival"] = opened(timing, Path(folder), "fp32")
        metrics = _time(timing, cell, models, data, seed)
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf8")
    run.metrics({name: value for name, value in metrics.items() if isinstance(value, float)})
    return metrics


def _trace(rival: Path, folder: Path, teacher: Path, checks: Export, data: Path, seed: int) -> None:
    from stages.graph.card import write_manifest
    from stages.graph.folder import Folder
    from stages.graph.subject import subject
    from stages.tasks.splits import read_task

    facts = json.loads((teacher / "manifest.json").read_text(encoding="utf8")) | {"role": "rival"}
    made = Folder(folder, checks, facts, subject(rival, read_task(data), data, facts.get("max_length", 0)))
    made.add("fp32", seed)
    write_manifest(folder, made.facts)


def _time(timing: Benchmark, cell: Compare, models: dict[str, "Predictor"], data: Path, seed: int) -> dict[str, Any]:
    """Milliseconds (p50) of both, the teacher's time over the rival's, and how busy the machine was."""
    draw = draws(models["teacher"], data, cell.length, cell.batch_size, seed)
    # of a decoder the second phase, decode, is what the comparison shows
    rounds = take_turns({who: list(phases(model).values())[-1] for who, model in models.items()}, draw, timing.seconds)
    return {
        "length": cell.length,
        "batch_size": cell.batch_size,
        "teacher_p50_ms": latency(rounds["teacher"], cell.batch_size)["p50_ms"],
        "p50_ms": latency(rounds["rival"], cell.batch_size)["p50_ms"],
        "speedup": speed_up(rounds, "teacher", "rival"),
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    with command(Race, __doc__, "task", "recipe") as job:
        race(
            job.params.race,
            job.params.benchmark,
            job.params.compare,
            job.params.export,
            data=job.of("prepare", "data"),
            teacher=job.of("teacher"),
            rival=job.of("baseline", job.recipe, str(job.params.baseline.seeds[0]), "model"),
            output=job.output,
            seed=job.params.seed,
            run=job.run,
        )
