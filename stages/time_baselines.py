"""A baseline and its teacher in; how much faster the baseline is out.

The baseline is traced to an fp32 graph in a temporary folder, checked against PyTorch, and timed in turns with the
teacher's graph, as `benchmark` times the main chain's student, in the one cell that `compare` shows. A stage of
its own, so that neither this code nor these settings ever make a baseline train again.

    python -m stages.time_baselines --task sst2 --recipe lowrank_kd
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.settings import Benchmark, Compare, Export, TimeBaselines
from stages.workspace import Workspace

if TYPE_CHECKING:
    from serving.opening import ExportedModel


@dataclass(frozen=True, kw_only=True)
class TimingSettings:
    """The blocks that decide how a baseline is timed."""

    enabled: TimeBaselines
    timing: Benchmark
    """Threads, provider and seconds."""
    cell: Compare
    """Length and batch size."""
    checks: Export
    """How far the graph's logits may be from PyTorch's."""


def time_baseline(
    settings: TimingSettings, work: Workspace, *, data: Path, teacher: Path, baseline: Path
) -> dict[str, Any]:
    """Writes `metrics.json`, an empty object where `time_baselines.enabled` is false; returns the metrics.

    Args:
        teacher: the folder that export wrote of it.
        baseline: the folder of its PyTorch model.

    Raises:
        BadInput: the graph differs from PyTorch, the provider is not there, or the model cannot read `compare.length`.
    """
    metrics: dict[str, Any] = {}
    if settings.enabled.enabled:
        metrics = _time_models(settings, work.seed, data, teacher, baseline)
    (work.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf8")
    work.run.log_metrics({name: value for name, value in metrics.items() if isinstance(value, float)})
    return metrics


def _time_models(settings: TimingSettings, seed: int, data: Path, teacher: Path, baseline: Path) -> dict[str, Any]:
    """Milliseconds (p50) of both, the teacher's time over the baseline's, and the machine's load."""
    from stages.kinds import get_kind
    from stages.tasks.splits import read_task
    from stages.timing.rounds import measure_speedup, open_timed_model, summarize_latency, time_in_turns

    timing, cell = settings.timing, settings.cell
    workload = get_kind(read_task(data)).make_workload(data)
    models: dict[str, ExportedModel] = {"teacher": open_timed_model(timing, teacher, "fp32")}
    workload.require_length("compare.length is", cell.length, models["teacher"])
    with TemporaryDirectory() as folder:
        _export_baseline(baseline, Path(folder), teacher, settings.checks, data, seed)
        models["baseline"] = open_timed_model(timing, Path(folder), "fp32")
    draw = workload.make_draw(models["teacher"], cell.length, cell.batch_size, seed)
    phases = {name: workload.shown_phase(model) for name, model in models.items()}
    rounds = time_in_turns(phases, draw, timing.seconds)
    return {
        "length": cell.length,
        "batch_size": cell.batch_size,
        "teacher_p50_ms": summarize_latency(rounds["teacher"], cell.batch_size)["p50_ms"],
        "p50_ms": summarize_latency(rounds["baseline"], cell.batch_size)["p50_ms"],
        "speedup": measure_speedup(rounds, "teacher", "baseline"),
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }


def _export_baseline(baseline: Path, folder: Path, teacher: Path, checks: Export, data: Path, seed: int) -> None:
    from stages.graph.card import write_manifest
    from stages.graph.onnx_folder import OnnxFolder
    from stages.kinds import get_kind
    from stages.models.loading import load_checkpoint
    from stages.tasks.splits import read_task

    task = read_task(data)
    facts = json.loads((teacher / "manifest.json").read_text(encoding="utf8")) | {"role": "baseline"}
    exporter = get_kind(task).make_exporter(load_checkpoint(baseline), task, data, facts.get("max_length", 0))
    exported = OnnxFolder(folder, checks, facts, exporter)
    exported.add_variant("fp32", seed)
    write_manifest(folder, exported.facts)


def report(name: str, metrics: dict[str, Any]) -> str:
    """One line for the terminal."""
    if not metrics:
        return f"{name}: not timed (time_baselines.enabled is false)"
    return f"{name}: {metrics['p50_ms']:.2f} ms, {metrics['speedup']:.2f} x the teacher's speed"


if __name__ == "__main__":
    with command("time_baselines", TimeBaselines, __doc__, "task", "recipe") as job:
        params = job.params
        timed = time_baseline(
            TimingSettings(
                enabled=params.time_baselines, timing=params.benchmark, cell=params.compare, checks=params.export
            ),
            job.work,
            data=job.find_output("prepare", "data"),
            teacher=job.find_output("teacher"),
            baseline=job.find_output("baseline", job.recipe, str(params.baseline.seeds[0]), "model"),
        )
        print(report(f"{job.name} {job.recipe}", timed))
