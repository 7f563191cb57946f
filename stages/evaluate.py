"""Teacher and student in; scores, retention and sizes side by side out.

The official metrics of the task on its validation split, the first with a bootstrap 95 % interval; how often the
student says what the teacher says; parameters, multiplications and bytes.

    python -m stages.evaluate --task sst2
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.settings import Evaluate

if TYPE_CHECKING:
    import numpy as np

    from stages.tasks import Task
    from stages.tracking import Run


def evaluate(settings: Evaluate, *, data: Path, models: dict[str, Path], output: Path, seed: int, run: "Run") -> dict:
    """Writes `metrics.json`: one entry per model, the first of which is the one to compare with (the teacher).

    Beside it `predictions/<model>.csv`. Returns the metrics: score, interval, metrics (points), retention,
    agreement (%), sizes.
    """
    from stages.tasks.predictions import write_predictions
    from stages.tasks.splits import read_split

    labels = read_split(data, "validation")["labels"]
    metrics: dict[str, dict[str, Any]] = {}
    reference: np.ndarray | None = None
    for name, folder in models.items():
        row, logits = measure(settings, data=data, model=folder, seed=seed, title=f"evaluate: {name}")
        write_predictions(output / "predictions" / f"{name}.csv", logits, labels)
        if reference is None:
            reference, teacher = logits, row
        else:
            row |= compared(row, logits, teacher, reference)
        metrics[name] = row
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    run.metrics(
        {f"{name}/{k}": v for name, row in metrics.items() for k, v in row.items() if isinstance(v, int | float)}
    )
    return metrics


def measure(
    settings: Evaluate, *, data: Path, model: Path, seed: int, title: str
) -> tuple[dict[str, Any], "np.ndarray"]:
    """One model's scores and sizes, and its logits (rows, outputs) on the validation split."""
    import torch
    from transformers import AutoTokenizer

    from stages.models.base import load
    from stages.models.size import sizes
    from stages.tasks.batches import predict
    from stages.tasks.metrics import scores
    from stages.tasks.significance import bootstrap
    from stages.tasks.splits import read_split, read_task

    task, split = read_task(data), read_split(data, "validation")
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    loaded = load(model).to("cuda" if torch.cuda.is_available() else "cpu")
    logits, labels = predict(loaded, split, tokenizer, settings.batch_size, title)
    found = scores(task, logits, labels)
    row = {
        "score": found[task.metrics[0]],
        "interval": list(bootstrap(task, logits, labels, settings.bootstrap, seed)),
        "metrics": found,
    }
    return row | sizes(loaded, model, sum(split["length"]) / len(split)), logits


def compared(row: dict, logits: "np.ndarray", teacher: dict, reference: "np.ndarray") -> dict[str, float]:
    """What the student kept: retention (% of the teacher's score) and agreement.

    Agreement is the share of equal predictions in %; for a regression, the Pearson correlation times 100.
    """
    import numpy as np

    if logits.shape[-1] == 1:
        agreement = 100 * float(np.corrcoef(logits[:, 0], reference[:, 0])[0, 1])
    else:
        agreement = 100 * float((logits.argmax(-1) == reference.argmax(-1)).mean())
    retention = 100 * row["score"] / teacher["score"] if teacher["score"] else float("nan")
    return {"retention": retention, "agreement": agreement}


def report(name: str, task: "Task", metrics: dict[str, dict]) -> str:
    """One line per model, for the terminal."""
    lines = []
    for model, row in metrics.items():
        low, high = row["interval"]
        kept = f"  keeps {row['retention']:.1f} %" if "retention" in row else ""
        score = f"{task.metrics[0]} {row['score']:.2f} [{low:.2f}, {high:.2f}]"
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
