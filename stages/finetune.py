"""A base model in; the task's teacher out.

The pretrained model gets a fresh head (a causal language model keeps its own) and is trained on the task's labels; the
checkpoint with the best validation score is kept. A killed run resumes from its last checkpoint and ends with the same
weights. With `finetune.epochs: 0` the base model is the teacher as it is.

    python -m stages.finetune --task sst2
"""

import json
from functools import partial
from pathlib import Path

from stages.command import command
from stages.settings import Base, Finetune
from stages.workspace import Workspace


def finetune(
    settings: Finetune, work: Workspace, *, base: Base, data: Path, title: str = "finetune"
) -> dict[str, float]:
    """Writes `model/`, `history.csv` and `metrics.json`; returns the metrics (points, seconds).

    Raises:
        BadInput: the base model cannot be a model of the task's kind; taken as it is, it lacks weights.
    """
    from transformers import AutoTokenizer, set_seed

    from stages.kinds import get_kind
    from stages.tasks.splits import read_split, read_task
    from stages.training.fingerprint import fingerprint_inputs
    from stages.training.train import TrainingJob, train

    task = read_task(data)
    kind = get_kind(task)
    set_seed(work.seed)  # the head is drawn here
    job = TrainingJob(
        title=title,
        settings=settings,
        train=read_split(data, "train"),
        validation=read_split(data, "validation"),
        tokenizer=AutoTokenizer.from_pretrained(data / "tokenizer"),
        validated=kind.validate_finetuning(task, settings),
        fingerprint=fingerprint_inputs(settings.model_dump(), base.model_dump(), work.seed, data),
        work=work,
    )
    model = kind.load_base(base, task, complete=not settings.epochs)
    trainer, metrics = train(
        job, model, partial(kind.get_finetuning_trainer(), group_by_length=settings.group_by_length)
    )
    trainer.save_model(str(work.output / "model"))
    (work.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def report(name: str, metrics: dict[str, float]) -> str:
    """One line for the terminal."""
    metric, score = next(iter(metrics.items()))
    return f"{name}: teacher, {metric} {score:.2f}, trained for {metrics['seconds']:.0f} s"


if __name__ == "__main__":
    with command("finetune", Finetune, __doc__, "task") as job:
        trained = finetune(
            job.params.finetune,
            job.work,
            base=job.params.base,
            data=job.find_output("prepare", "data"),
            title=f"finetune {job.name}",
        )
        print(report(job.name, trained))
