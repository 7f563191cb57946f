"""The student in; an ONNX folder that any runtime loads out (and the teacher's, to measure against).

The folder has the layout of the model hub: `onnx/` with the graph in the variants that `export.variants`
names, the base architecture's config with the labels, the tokenizer, a model card, and a manifest with
checksums and figures. Nothing is shipped unseen: `fp32` and `portable` must give PyTorch's logits, `fp16` and
`int8` must keep the score (else the file is left out and the card says so), and the whole folder, fed with
raw text, must give evaluate's score.

A language model's graph has past key values, so that any runtime can generate with it. It must give PyTorch's logits
at every step of whole greedy generations, and evaluate's score on the split's tokens.

Beside it a model of a Triton repository: `tritonserver --model-repository outputs/triton` serves every task's.

    python -m stages.export --task sst2
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import OUTPUTS, command, staged
from stages.settings import Export

if TYPE_CHECKING:
    from stages.tracking import Run


def export(
    settings: Export,
    *,
    name: str,
    base: str,
    max_length: int,
    data: Path,
    teacher: Path,
    student: Path,
    evaluation: Path,
    output: Path,
    teacher_output: Path,
    triton_output: Path,
    seed: int,
    run: "Run",
) -> dict[str, Any]:
    """Writes the student's folder to `output`, the teacher's (fp32 only) to `teacher_output`, Triton's to another.

    Args:
        name: the task's name; the model is registered as `makd-<name>`.
        base: what the model card calls the pretrained model.
        max_length: where texts are truncated, in tokens.
        evaluation: evaluate's metrics.json.

    Returns the student's manifest.

    Raises:
        BadInput: a graph is further from PyTorch than `export.tolerance`, or does not give the evaluated
        score.
    """
    from stages.graph.card import write_card, write_manifest
    from stages.graph.folder import Folder
    from stages.graph.subject import subject
    from stages.graph.triton import write_model
    from stages.tasks.splits import read_task

    scores, task = json.loads(evaluation.read_text(encoding="utf8")), read_task(data)
    sides = {"teacher": (teacher, teacher_output, []), "student": (student, output, settings.variants)}
    for role, (model, folder, variants) in sides.items():
        facts = {"name": name, "role": role, "base": base, "task": task.model_dump()}
        made = Folder(folder, settings, facts, subject(model, task, data, max_length))
        made.build(variants, evaluated=scores[role]["score"], seed=seed)
        write_card(folder, made.facts, {key: scores[key] for key in dict.fromkeys(("teacher", role))})
        manifest = write_manifest(folder, made.facts)
    write_model(output, manifest, settings.triton, triton_output)
    _track(run, manifest, scores["student"], output)
    return manifest


def known_as(base: str) -> str:
    """What the world calls the pretrained model: its hub id, or a folder's bare name."""
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
        lines.append(f"{manifest['name']} {variant}: {size}  logits within {row['difference']:.1e}{score}{state}")
    return "\n".join(lines)


def _track(run: "Run", manifest: dict[str, Any], scores: dict[str, Any], folder: Path) -> None:
    figures = ("score", "difference", "bytes", "agreement")
    for variant, row in manifest["variants"].items():
        found = {f"{variant}/{key}": row[key] for key in figures if key in row}
        run.metrics(found | {f"{variant}/shipped": "file" in row})
    tags = {key: scores[key] for key in ("score", "retention", "layer_parameters")}
    tags["bytes"] = manifest["variants"]["fp32"]["bytes"]
    run.model(folder, f"makd-{manifest['name']}", tags)


if __name__ == "__main__":
    with (
        command(Export, __doc__, "task") as job,
        staged(OUTPUTS / "teacher" / job.name) as teacher,
        staged(OUTPUTS / "triton" / job.name) as triton,
    ):
        made = export(
            job.params.export,
            name=job.name,
            base=known_as(job.params.base.model),
            max_length=job.params.prepare.max_length,
            data=job.of("prepare", "data"),
            teacher=job.of("finetune", "model"),
            student=job.of("distill", "model"),
            evaluation=job.of("evaluate", "metrics.json"),
            output=job.output,
            teacher_output=teacher,
            triton_output=triton,
            seed=job.params.seed,
            run=job.run,
        )
        print(report(made))
