"""The student in; an ONNX folder that any runtime loads out (and the teacher's, to measure against).

The folder has the layout of the model hub: `onnx/` with the graph in the variants that `export.variants`
names, the base architecture's config with the labels, the tokenizer, a model card, and a manifest with
checksums and scores. Nothing is shipped unchecked: `fp32` and `portable` must have PyTorch's logits (parity), `fp16`
and `int8` must keep the score (else the file is left out and the card says so), and the whole folder, fed with
raw text, must reproduce evaluate's score.

A language model's graph has past key values (KV cache), so that any runtime can generate with it. It must have
PyTorch's logits at every step of whole greedy generations, and evaluate's score on the split's tokens.

Beside it a model of a Triton repository: `tritonserver --model-repository outputs/triton` serves every task's.

    python -m stages.export --task sst2
"""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import OUTPUTS, Job, command, write_atomically
from stages.settings import Export
from stages.workspace import Workspace

if TYPE_CHECKING:
    from stages.tracking import Run


@dataclass(frozen=True, kw_only=True)
class ExportInputs:
    """What is exported."""

    name: str
    """The task's; the model is registered as `makd-<name>`."""
    base: str
    """The pretrained model, for the model card."""
    max_length: int
    """Where texts are truncated, in tokens."""
    data: Path
    teacher: Path
    student: Path
    evaluation: Path
    """evaluate's metrics.json."""


@dataclass(frozen=True, kw_only=True)
class SideOutputs:
    """Folders beside the student's."""

    teacher: Path
    """The teacher's graph, fp32 only."""
    triton: Path


def export(settings: Export, work: Workspace, inputs: ExportInputs, outputs: SideOutputs) -> dict[str, Any]:
    """Writes the student's folder, the teacher's and Triton's; returns the student's manifest.

    Raises:
        BadInput: a graph is further from PyTorch than `export.tolerance`, or does not reproduce the evaluated score.
    """
    from stages.graph.card import write_card, write_manifest
    from stages.graph.onnx_folder import OnnxFolder
    from stages.graph.triton import write_triton_model
    from stages.kinds import get_kind
    from stages.models.loading import load_checkpoint
    from stages.tasks.splits import read_task

    scores, task = json.loads(inputs.evaluation.read_text(encoding="utf8")), read_task(inputs.data)
    manifest: dict[str, Any] = {}
    sides: dict[str, tuple[Path, Path, list[str]]] = {
        "teacher": (inputs.teacher, outputs.teacher, []),
        "student": (inputs.student, work.output, list(settings.variants)),
    }
    for role, (model, folder, variants) in sides.items():
        facts = {"name": inputs.name, "role": role, "base": inputs.base, "task": task.model_dump()}
        exporter = get_kind(task).make_exporter(load_checkpoint(model), task, inputs.data, inputs.max_length)
        exported = OnnxFolder(folder, settings, facts, exporter)
        exported.build_variants(variants, evaluated=scores[role]["score"], seed=work.seed)
        evaluated = {key: scores[key] for key in dict.fromkeys(("teacher", role))}
        write_card(folder, exported.facts, exporter.describe(exported.facts), evaluated)
        manifest = write_manifest(folder, exported.facts)
    write_triton_model(work.output, manifest, settings.triton, outputs.triton)
    _track(work.run, manifest, scores["student"], work.output)
    return manifest


def name_base_model(base: str) -> str:
    """The public name of the pretrained model: its hub id, or a folder's bare name."""
    if base == "minilm":
        return "sentence-transformers/all-MiniLM-L6-v2"
    return Path(base).expanduser().name if Path(base).expanduser().is_dir() else base


def report(manifest: dict[str, Any]) -> str:
    """One line per variant, for the terminal."""
    lines = []
    for variant, row in manifest["variants"].items():
        score = f"  {manifest['task']['metrics'][0]} {row['score']:.2f}" if "score" in row else ""
        state = f"  REFUSED: {row['refused']}" if "refused" in row else ""
        size = f"{row['bytes'] / 1e6:.1f} MB"
        lines.append(f"{manifest['name']}: {variant}, {size}  logits within {row['difference']:.1e}{score}{state}")
    return "\n".join(lines)


def _track(run: "Run", manifest: dict[str, Any], scores: dict[str, Any], folder: Path) -> None:
    name, variants = manifest["name"], manifest["variants"]
    keys = ("score", "difference", "bytes", "agreement")
    for variant, row in variants.items():
        metrics = {f"{variant}/{key}": row[key] for key in keys if key in row}
        run.log_metrics(metrics | {f"{variant}/shipped": "file" in row})
    tags = {key: scores[key] for key in ("score", "retention", "layer_parameters")}
    tags["bytes"] = variants["fp32"]["bytes"]
    run.log_model(folder, f"makd-{name}", tags)
    shipped = [row["bytes"] for row in variants.values() if "file" in row]
    run.log_headline(
        {f"{name}/megabytes": variants["fp32"]["bytes"] / 1e6, f"{name}/smallest_megabytes": min(shipped) / 1e6}
    )


def _run(job: Job) -> dict[str, Any]:
    with ExitStack() as stack:
        outputs = SideOutputs(
            teacher=stack.enter_context(write_atomically(OUTPUTS / "teacher" / job.name)),
            triton=stack.enter_context(write_atomically(OUTPUTS / "triton" / job.name)),
        )
        inputs = ExportInputs(
            name=job.name,
            base=name_base_model(job.params.base.model),
            max_length=job.params.prepare.max_length,
            data=job.find_output("prepare", "data"),
            teacher=job.find_output("finetune", "model"),
            student=job.find_output("distill", "model"),
            evaluation=job.find_output("evaluate", "metrics.json"),
        )
        return export(job.params.export, job.work, inputs, outputs)


if __name__ == "__main__":
    with command("export", Export, __doc__, "task") as job:
        print(report(_run(job)))
