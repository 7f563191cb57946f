"""The teacher in; a rival student of the same size, made another way, scored.

A recipe says what it changes in the blocks `factorize` and `distill` (`recipes` writes them out in full); everything
else is as in the main chain, so that rivals differ in what is being compared and in nothing else.

    python -m stages.baseline --task sst2 --recipe lowrank_kd --seed 42
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from stages.command import OUTPUTS, command
from stages.distill import distill
from stages.evaluate import measure
from stages.factorize import factorize
from stages.recipes import read_recipe
from stages.settings import Baseline, Distill, Evaluate, Factorize

if TYPE_CHECKING:
    from stages.tracking import Run


def baseline(
    student: Factorize,
    training: Distill | None,
    scoring: Evaluate,
    *,
    data: Path,
    teacher: Path,
    output: Path,
    state: Path,
    seed: int,
    run: "Run",
) -> dict:
    """Writes `model/`, `metrics.json`, `predictions.csv`, `history.csv` and what else the steps it is made of write.

    Returns the metrics. An untrained student's history is empty.
    """
    from stages.tasks.predictions import write_predictions
    from stages.tasks.splits import read_task

    (output / "history.csv").write_text("step,epoch,loss\n")
    factorize(student, data=data, teacher=teacher, output=output, seed=seed, run=run)
    seconds = 0.0
    if training:
        start = output / "start"
        (output / "model").rename(start)
        trained = distill(
            training, data=data, teacher=teacher, student=start, output=output, state=state, seed=seed, run=run
        )
        seconds = trained["seconds"]
        shutil.rmtree(start)
    known = {"data": data, "seed": seed}
    theirs = measure(scoring, model=teacher, title="baseline: teacher", **known)
    found = measure(scoring, model=output / "model", teacher=theirs, title="baseline: student", **known)
    write_predictions(output / "predictions.csv", found.said, found.labels, read_task(data).kind)
    metrics = {"student": found.row, "seconds": seconds}
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    run.metrics({k: v for k, v in metrics["student"].items() if isinstance(v, int | float)} | {"seconds": seconds})
    return metrics


if __name__ == "__main__":
    with command(Baseline, __doc__, "task", "recipe", "seed") as job:
        student, training = read_recipe(OUTPUTS / "recipes" / "settings" / f"{job.recipe}.yaml")
        baseline(
            student,
            training,
            job.params.evaluate,
            data=job.of("prepare", "data"),
            teacher=job.of("finetune", "model"),
            output=job.output,
            state=job.state,
            seed=job.params.seed,
            run=job.run,
        )
