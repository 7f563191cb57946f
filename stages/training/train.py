"""What every training verb shares around Transformers' Trainer: validation, resuming, the history."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
)

from stages.settings import TaskTraining, Training
from stages.tasks.predictions import Predictions
from stages.tasks.scorers import Scorer
from stages.training.arguments import make_arguments
from stages.training.checkpoints import MarkComplete, find_last_checkpoint, remove_other_runs
from stages.training.history import ShowProgress, TrackMetrics, write_history
from stages.workspace import Workspace

T = TypeVar("T", bound=Trainer)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How a training is validated, and which checkpoint is kept."""

    metrics: Sequence[str]
    """Metrics of the validation split to report; the first chooses the checkpoint, the higher the better."""
    compute_metrics: Callable[[EvalPrediction], dict[str, float]]
    keep_best: bool = True
    """Keep the best checkpoint; False keeps the last."""
    patience: int | None = None
    """Early stopping after this many evaluations without a better one."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training: its data, how it is validated, where its state is."""

    title: str
    settings: Training
    train: Dataset
    validation: Dataset
    tokenizer: PreTrainedTokenizerBase
    validated: Validation
    fingerprint: str
    """Of all that decides the result; checkpoints of another one are removed."""
    work: Workspace

    @property
    def history(self) -> Path:
        """CSV file with a row per logged step."""
        return self.work.output / "history.csv"


def train(job: TrainingJob, model: PreTrainedModel, make_trainer: Callable[..., T]) -> tuple[T, dict[str, float]]:
    """Trains from the last complete checkpoint if there is one; keeps the checkpoint that the validation says.

    Args:
        make_trainer: a Trainer's class, its further arguments bound.

    Returns:
        The trainer with that model, and its validation metrics with the training seconds.
    """
    validated, folder = job.validated, remove_other_runs(job.work.state, job.fingerprint)
    metric, keep_best = validated.metrics[0], validated.keep_best
    arguments = make_arguments(job.settings, len(job.train), folder, job.work.seed, metric=metric, keep_best=keep_best)
    progress = ShowProgress(job.title, metric)
    stop = [EarlyStoppingCallback(validated.patience)] if validated.patience else []
    trainer = make_trainer(
        model=model,
        args=arguments,
        train_dataset=job.train,
        eval_dataset=job.validation,
        processing_class=job.tokenizer,
        compute_metrics=validated.compute_metrics,
        callbacks=[MarkComplete(), TrackMetrics(job.work.run), progress, *stop],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        if job.settings.epochs:
            trainer.train(resume_from_checkpoint=find_last_checkpoint(folder))
        else:
            trainer.evaluate()
    finally:
        progress.close()
    rows = trainer.state.log_history
    scored = [row for row in rows if f"eval_{metric}" in row]
    kept = max(scored, key=lambda row: row[f"eval_{metric}"]) if keep_best else scored[-1]
    if trainer.is_world_process_zero():
        write_history(rows, job.history)
    return trainer, {name: kept[f"eval_{name}"] for name in validated.metrics} | {
        "best_step" if keep_best else "steps": kept["step"],
        "seconds": sum(row.get("train_runtime", 0) for row in rows),
    }


def validate_task(scorer: Scorer, settings: TaskTraining) -> Validation:
    """By a task's metrics, in points; the best checkpoint is kept."""

    def compute_metrics(found: EvalPrediction) -> dict[str, float]:
        predictions = Predictions(values=np.asarray(found.predictions), targets=np.asarray(found.label_ids))
        return scorer.compute_scores(predictions)

    return Validation(metrics=scorer.metrics, compute_metrics=compute_metrics, patience=settings.patience)
