"""Teacher and student in; the recovered student out (MaKD, or any other sum of objectives).

Knowledge distillation: student and teacher read the same batches; the student learns the teacher's output
distribution (prediction level), its attention and hidden states (layer level), and the outputs of its matrices (matrix
level).

    python -m stages.distill --task sst2
    accelerate launch -m stages.distill --task sst2        # several GPUs or machines
"""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stages.command import command
from stages.settings import Distill
from stages.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def distill(
    settings: Distill, work: Workspace, *, data: Path, teacher: Path, student: Path, title: str = "distill"
) -> dict[str, float]:
    """Writes `model/`, `history.csv`, `terms.png` and `metrics.json`; returns the metrics (points, seconds).

    Raises:
        BadInput: an objective cannot compare these models, such as one that names a layer they do not have; language
            models have different vocabularies; augmented text is wanted that is not there; a student is to generate
            that cannot.
    """
    import torch
    from transformers import AutoTokenizer, set_seed

    from stages.kinds import get_kind
    from stages.models.loading import load_checkpoint, set_dropout
    from stages.tasks.augmented import read_training_split
    from stages.tasks.splits import read_split, read_task
    from stages.training.fingerprint import fingerprint_inputs
    from stages.training.train import TrainingJob, train

    task, tokenizer = read_task(data), AutoTokenizer.from_pretrained(data / "tokenizer")
    kind = get_kind(task)
    make_trainer = kind.get_distillation_trainer(task, settings)
    _require_one_vocabulary(tokenizer, teacher=teacher, student=student)
    set_seed(work.seed)
    model = set_dropout(load_checkpoint(student, dtype=torch.float32), settings.dropout)
    job = TrainingJob(
        title=title,
        settings=settings,
        train=read_training_split(
            data, settings.augmented, kind.label_by_teacher, teacher, tokenizer, 2 * settings.batch_size
        ),
        validation=read_split(data, "validation"),
        tokenizer=tokenizer,
        validated=kind.validate_distillation(task, settings),
        fingerprint=fingerprint_inputs(settings.model_dump(), work.seed, data, teacher, student),
        work=work,
    )
    trainer, metrics = train(
        job,
        model,
        partial(
            make_trainer,
            teacher=load_checkpoint(teacher),
            distill=settings,
            cache_path=_name_logit_cache(settings, data, teacher, work.state),
            group_by_length=settings.group_by_length,
        ),
    )
    trainer.save_student(work.output / "model")
    if trainer.is_world_process_zero():
        (work.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        _plot_terms(job.history, work.output / "terms.png")
    return metrics


def _require_one_vocabulary(tokenizer: "PreTrainedTokenizerBase", **models: Path) -> None:
    from stages.models.vocabulary import require_same_vocabulary

    cure = "make all of them from one base.model: run prepare, finetune and factorize again"
    for name, folder in models.items():
        require_same_vocabulary(str(folder), tokenizer, model=f"the {name}", other="and the prepared text", cure=cure)


def _name_logit_cache(settings: Distill, data: Path, teacher: Path, state: Path) -> Path | None:
    """File of the teacher's logits, for any training on this data that resumes or begins again."""
    from stages.training.fingerprint import fingerprint_inputs

    if settings.offline is None:
        return None
    key = fingerprint_inputs(settings.offline.model_dump(), settings.augmented, data, teacher)
    return state / f"teacher-{key}.npy"


def _plot_terms(history: Path, path: Path) -> None:
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


def report(name: str, metrics: dict[str, float]) -> str:
    """One line for the terminal."""
    metric, score = next(iter(metrics.items()))
    return f"{name}: student, {metric} {score:.2f}, trained for {metrics['seconds']:.0f} s"


if __name__ == "__main__":
    with command("distill", Distill, __doc__, "task") as job:
        distilled = distill(
            job.params.distill,
            job.work,
            data=job.find_output("prepare", "data"),
            teacher=job.find_output("finetune", "model"),
            student=job.find_output("factorize", "model"),
            title=f"distill {job.name}",
        )
        print(report(job.name, distilled))
