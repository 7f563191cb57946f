"""Teacher and student in; scores, retention and sizes side by side out.

The official metrics of the task on its validation split, the first with a bootstrap 95 % interval; how often the
student says what the teacher says; parameters, multiplications and bytes. Of language models also how far the student's
distribution lies from the teacher's, how well their top tokens agree, and how good its answers are to prompts.

    python -m stages.evaluate --task sst2
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.settings import Evaluate

if TYPE_CHECKING:
    import numpy as np

    from stages.tasks import Task
    from stages.tracking import Run


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model on the validation split."""

    folder: Path
    row: dict[str, Any]
    """Score, interval, metrics (points), sizes; of a student also what it kept of its teacher."""
    said: "np.ndarray"
    labels: "np.ndarray"
    """Both as for `stages.tasks.metrics.scores`."""


def evaluate(settings: Evaluate, *, data: Path, models: dict[str, Path], output: Path, seed: int, run: "Run") -> dict:
    """Writes `metrics.json`: one entry per model, the first of which is the one to compare with (the teacher).

    Beside it `predictions/<model>.csv`. Returns the metrics: score, interval, metrics (points), retention,
    agreement (%), sizes.
    """
    from stages.tasks.predictions import write_predictions
    from stages.tasks.splits import read_task

    metrics: dict[str, dict[str, Any]] = {}
    teacher: Measured | None = None
    for name, folder in models.items():
        found = measure(settings, data=data, model=folder, teacher=teacher, seed=seed, title=f"evaluate: {name}")
        write_predictions(output / "predictions" / f"{name}.csv", found.said, found.labels, read_task(data).kind)
        metrics[name] = found.row
        teacher = teacher or found
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    run.metrics(
        {f"{name}/{k}": v for name, row in metrics.items() for k, v in row.items() if isinstance(v, int | float)}
    )
    return metrics


def measure(
    settings: Evaluate, *, data: Path, model: Path, seed: int, title: str, teacher: Measured | None = None
) -> Measured:
    """One model's scores and sizes; beside a teacher also retention (% of its score) and agreement (%) with it."""
    import torch
    from transformers import AutoTokenizer

    from stages.distillation.measure import measured
    from stages.language.answers import answers
    from stages.models.base import load
    from stages.models.size import sizes
    from stages.tasks.batches import predict
    from stages.tasks.metrics import scores
    from stages.tasks.significance import bootstrap
    from stages.tasks.splits import read_split, read_task

    task, split = read_task(data), read_split(data, "validation")
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded, asked = load(model).to(device), (split, tokenizer, settings.batch_size, title)
    if task.kind == "causal_lm":
        beside = load(teacher.folder).to(device) if teacher else None
        said, labels, more = measured(loaded, *asked, teacher=beside)
        if settings.answers.examples and not task.text:
            more["answers"] = answers(loaded, split, tokenizer, settings, task.match, title)
    else:
        said, labels = predict(loaded, *asked)
        more = {"agreement": _agreement(task, said, teacher.said)} if teacher else {}
    found = scores(task, said, labels)
    row = {
        "score": found[task.metrics[0]],
        "interval": list(bootstrap(task, said, labels, settings.bootstrap, seed)),
        "metrics": found,
    } | sizes(loaded, model, sum(split["length"]) / len(split))
    if teacher:
        best = teacher.row["score"]
        row["retention"] = 100 * row["score"] / best if best else float("nan")
    return Measured(folder=model, row=row | more, said=said, labels=labels)


def _agreement(task: "Task", student: "np.ndarray", teacher: "np.ndarray") -> float:
    """The share of equal predictions in %; of a regression the Pearson correlation times 100.

    Shapes: logits of both (examples, outputs).
    """
    import numpy as np

    if task.kind == "regression":
        return 100 * float(np.corrcoef(student[:, 0], teacher[:, 0])[0, 1])
    return 100 * float((student.argmax(-1) == teacher.argmax(-1)).mean())


def report(name: str, task: "Task", metrics: dict[str, dict]) -> str:
    """One line per model, for the terminal."""
    lines = []
    for model, row in metrics.items():
        low, high = row["interval"]
        kept = f"  keeps {row['retention']:.1f} %" if "retention" in row else ""
        score = f"{task.metrics[0]} {row['score']:.2f} [{low:.2f}, {high:.2f}]"
        score += "".join(f"  {metric} {row['metrics'][metric]:.2f}" for metric in task.metrics[1:])
        lines.append(f"{name} {model}: {score}{kept}  {row['layer_parameters']:,} layer parameters")
    return "\n".join(lines)


if __name__ == "__main__":
    with command(Evaluate, __doc__, "task") as job:
        found = evaluate(
            job.params.evaluate,
            data=job.of("prepare", "data"),
            models={"teacher": job.of("finetune", "model"), "student": job.of("distill", "model")},
            output=job.output,
            seed=job.params.seed,
            run=job.run,
        )
        print(report(job.name, job.task, found))
