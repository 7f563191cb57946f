"""Teacher and student in; the recovered student out (MaKD, or any other sum of objectives).

Student and teacher read the same batches; the student learns to say what the teacher says (prediction), to look
where it looks and pass on what it passes on (layer level), and to compute what its matrices compute (matrix level).

    python -m stages.distill --task sst2
    accelerate launch -m stages.distill --task sst2        # several GPUs or machines
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from stages.command import command
from stages.settings import BadInput, Distill

if TYPE_CHECKING:
    from stages.tracking import Run


def distill(
    settings: Distill, *, data: Path, teacher: Path, student: Path, output: Path, state: Path, seed: int, run: "Run"
) -> dict[str, float]:
    """Writes `model/`, `history.csv`, `terms.png` and `metrics.json`; returns the metrics (points, seconds).

    Raises:
        BadInput: an objective cannot compare these models, such as one that names a layer they do not have; language
            models have different vocabularies; augmented text is wanted that is not there; a student is to write that
            cannot.
    """
    import torch
    from transformers import AutoTokenizer, set_seed

    from stages.distillation import causal_lm
    from stages.distillation.trainer import DistillationTrainer
    from stages.models.base import load
    from stages.models.vocabulary import require_same
    from stages.tasks.splits import read_split, read_task
    from stages.tasks.unlabeled import training_split
    from stages.training import fingerprint, scored_by, train, with_dropout

    task, tokenizer = read_task(data), AutoTokenizer.from_pretrained(data / "tokenizer")
    causal = task.kind == "causal_lm"
    if settings.on_policy and not causal:
        raise BadInput(f"distill.on_policy is for causal_lm tasks, and this one is a {task.kind}; set it to null")
    cure = "make all of them from one base.model: run prepare, finetune and factorize again"
    for name, folder in (("teacher", teacher), ("student", student)):
        require_same(str(folder), tokenizer, model=f"the {name}", other="and the prepared text", cure=cure)
    set_seed(seed)
    model = with_dropout(load(student, dtype=torch.float32), settings.dropout)
    trainer, metrics = train(
        causal_lm.CausalLMTrainer if causal else DistillationTrainer,
        model,
        settings,
        goal=(causal_lm.goal if causal else scored_by)(task, settings),
        train=training_split(data, settings.augmented, teacher, tokenizer, 2 * settings.batch_size),
        validation=read_split(data, "validation"),
        tokenizer=tokenizer,
        state=state,
        key=fingerprint(settings.model_dump(), seed, data, teacher, student),
        seed=seed,
        run=run,
        history=output / "history.csv",
        teacher=load(teacher),
        distill=settings,
        offline=settings.offline and _file(settings, data, teacher, state),
        grouped=settings.group_by_length,
    )
    trainer.save_student(output / "model")
    if trainer.is_world_process_zero():
        (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        _plot(output / "history.csv", output / "terms.png")
    return metrics


def _file(settings: Distill, data: Path, teacher: Path, state: Path) -> Path:
    """Where an offline teacher is kept, for any training on this data that resumes or begins again."""
    from stages.training import fingerprint

    return state / f"teacher-{fingerprint(settings.offline.model_dump(), settings.augmented, data, teacher)}.npy"


def _plot(history: Path, path: Path) -> None:
    """Every term of the loss over the steps, and the validation scores."""
    import pandas as pd
    from matplotlib.figure import Figure

    table = pd.read_csv(history)
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis, prefix in ((left, "loss/"), (right, "validation/")):
        for name in [c for c in table if c.startswith(prefix) and not c.endswith("loss")]:
            points = table[["step", name]].dropna()
            axis.plot(points["step"], points[name], label=name.removeprefix(prefix), marker="." * (axis is right))
        axis.set_xlabel("step")
        axis.legend()
    left.set(title="terms of the loss (unweighted)", yscale="log")
    right.set(title="validation score, points")
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    with command(Distill, __doc__, "task") as job:
        distill(
            job.params.distill,
            data=job.of("prepare", "data"),
            teacher=job.of("finetune", "model"),
            student=job.of("factorize", "model"),
            output=job.output,
            state=job.state,
            seed=job.params.seed,
            run=job.run,
        )
