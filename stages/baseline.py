"""The teacher in; a baseline out: a student of the same size, made another way, scored.

A recipe says what it changes in the blocks `factorize` and `distill` (`recipes` writes them out in full); everything
else is as in the main chain, so that baselines differ in what is compared and in nothing else.

    python -m stages.baseline --task sst2 --recipe lowrank_kd --seed 42
"""

import json
import shutil
from pathlib import Path
from typing import Any

from stages.command import OUTPUTS, command
from stages.distill import distill
from stages.evaluate import evaluate_model
from stages.factorize import factorize
from stages.recipes import read_recipe
from stages.settings import Baseline, Distill, Evaluate, Factorize
from stages.workspace import Workspace


def make_baseline(
    student: Factorize,
    training: Distill | None,
    scoring: Evaluate,
    work: Workspace,
    *,
    data: Path,
    teacher: Path,
    title: str = "baseline",
) -> dict[str, Any]:
    """Writes `model/`, `metrics.json`, `predictions.csv`, `history.csv` and the files of the steps it is made of.

    Returns the metrics. An untrained student's history is empty.
    """
    from stages.tasks.predictions import write_predictions

    output = work.output
    (output / "history.csv").write_text("step,epoch,loss\n")
    factorize(student, work, data=data, teacher=teacher)
    seconds = 0.0
    if training:
        untrained = output / "untrained"
        (output / "model").rename(untrained)
        trained = distill(training, work, data=data, teacher=teacher, student=untrained, title=title)
        seconds = trained["seconds"]
        shutil.rmtree(untrained)
    known = {"data": data, "seed": work.seed}
    reference = evaluate_model(scoring, model=teacher, title=f"{title}: teacher", **known)
    evaluated = evaluate_model(scoring, model=output / "model", teacher=reference, title=f"{title}: student", **known)
    write_predictions(output / "predictions.csv", evaluated.predictions, evaluated.columns)
    metrics = {"student": evaluated.row, "seconds": seconds}
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    numbers = {k: v for k, v in evaluated.row.items() if isinstance(v, int | float)}
    work.run.log_metrics(numbers | {"seconds": seconds})
    return metrics


def report(name: str, metrics: dict[str, Any]) -> str:
    """One line for the terminal."""
    row = metrics["student"]
    low, high = row["interval"]
    kept = f"score {row['score']:.2f} [{low:.2f}, {high:.2f}], retention {row['retention']:.1f} %"
    return f"{name}: {kept}, trained for {metrics['seconds']:.0f} s"


if __name__ == "__main__":
    with command("baseline", Baseline, __doc__, "task", "recipe", "seed") as job:
        student, training = read_recipe(OUTPUTS / "recipes" / "settings" / f"{job.recipe}.yaml")
        made = make_baseline(
            student,
            training,
            job.params.evaluate,
            job.work,
            data=job.find_output("prepare", "data"),
            teacher=job.find_output("finetune", "model"),
            title=f"baseline {job.name} {job.recipe}",
        )
        print(report(f"{job.name} {job.recipe} {job.params.seed}", made))
