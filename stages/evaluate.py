"""Teacher and student in; scores, retention and sizes side by side out.

The official metrics of the task on its validation split, the first with a bootstrap 95 % confidence interval; the
student's agreement with the teacher; parameters, multiplications and bytes. Of language models also how far the
student's distribution lies from the teacher's, how well their top tokens agree, and how good its generated responses
are.

    python -m stages.evaluate --task sst2
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.settings import Evaluate
from stages.workspace import Workspace

if TYPE_CHECKING:
    from stages.schema.task import Row
    from stages.tasks.predictions import Predictions


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One model on the validation split."""

    folder: Path
    row: dict[str, Any]
    """Score, interval, metrics (points), sizes; of a student also retention and agreement."""
    predictions: "Predictions"
    columns: list[str]
    """Names of the predictions' columns."""


def evaluate(
    settings: Evaluate, work: Workspace, *, data: Path, models: dict[str, Path], title: str = "evaluate"
) -> dict[str, Any]:
    """Writes `metrics.json`: one entry per model, the first of which is the one to compare with (the teacher).

    Beside it `predictions/<model>.csv`. Returns the metrics: score, interval, metrics (points), retention,
    agreement (%), sizes.
    """
    from stages.tasks.predictions import write_predictions

    metrics: dict[str, dict[str, Any]] = {}
    teacher: Evaluated | None = None
    for name, folder in models.items():
        evaluated = evaluate_model(
            settings, data=data, model=folder, teacher=teacher, seed=work.seed, title=f"{title}: {name}"
        )
        write_predictions(work.output / "predictions" / f"{name}.csv", evaluated.predictions, evaluated.columns)
        metrics[name] = evaluated.row
        teacher = teacher or evaluated
    (work.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    work.run.log_metrics(
        {f"{name}/{k}": v for name, row in metrics.items() for k, v in row.items() if isinstance(v, int | float)}
    )
    return metrics


def evaluate_model(
    settings: Evaluate, *, data: Path, model: Path, seed: int, title: str, teacher: Evaluated | None = None
) -> Evaluated:
    """One model's scores and sizes; beside a teacher also retention (% of its score) and agreement (%) with it."""
    import torch
    from transformers import AutoTokenizer

    from stages.kinds import get_kind
    from stages.kinds.base import Reference
    from stages.models.loading import load_checkpoint
    from stages.models.size import measure_size
    from stages.tasks.significance import confidence_interval
    from stages.tasks.splits import read_split, read_task

    task, split = read_task(data), read_split(data, "validation")
    kind, tokenizer = get_kind(task), AutoTokenizer.from_pretrained(data / "tokenizer")
    loaded = load_checkpoint(model).to("cuda" if torch.cuda.is_available() else "cpu")
    reference = Reference(folder=teacher.folder, predictions=teacher.predictions) if teacher else None
    predictions, figures = kind.predict_split(loaded, task, split, tokenizer, settings, title, reference)
    scorer = kind.make_scorer(task)
    scores = scorer.compute_scores(predictions)
    row: dict[str, Any] = {
        "score": scores[task.metrics[0]],
        "interval": list(confidence_interval(scorer, predictions, settings.bootstrap, seed)),
        "metrics": scores,
    } | measure_size(loaded, model, sum(split["length"]) / len(split))
    if teacher:
        best = teacher.row["score"]
        row["retention"] = 100 * row["score"] / best if best else float("nan")
    columns = scorer.name_columns(predictions)
    return Evaluated(folder=model, row=row | figures, predictions=predictions, columns=columns)


def report(name: str, task: "Row", metrics: dict[str, dict]) -> str:
    """One line per model, for the terminal."""
    lines = []
    for model, row in metrics.items():
        low, high = row["interval"]
        kept = f"  retention {row['retention']:.1f} %" if "retention" in row else ""
        score = f"{task.metrics[0]} {row['score']:.2f} [{low:.2f}, {high:.2f}]"
        score += "".join(f"  {metric} {row['metrics'][metric]:.2f}" for metric in task.metrics[1:])
        lines.append(f"{name}: {model}, {score}{kept}  {row['layer_parameters']:,} layer parameters")
    return "\n".join(lines)


def log_headline(job: Any, metrics: dict[str, dict]) -> None:
    """The score and the retention, on the pipeline's run."""
    student, teacher = metrics["student"], metrics["teacher"]
    job.run.log_headline(
        {
            f"{job.name}/teacher_score": teacher["score"],
            f"{job.name}/score": student["score"],
            f"{job.name}/retention": student["retention"],
            f"{job.name}/layer_parameters": student["layer_parameters"],
        }
    )


if __name__ == "__main__":
    with command("evaluate", Evaluate, __doc__, "task") as job:
        evaluated = evaluate(
            job.params.evaluate,
            job.work,
            data=job.find_output("prepare", "data"),
            models={"teacher": job.find_output("finetune", "model"), "student": job.find_output("distill", "model")},
            title=f"evaluate {job.name}",
        )
        log_headline(job, evaluated)
        print(report(job.name, job.task, evaluated))
