"""What every training verb shares around Transformers' Trainer: arguments, data order, resuming, history.

The order of the data depends on the seed and the epoch alone: not on where a run was resumed, nor on how many
processes share the batches.
"""

import csv
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from stages.settings import TaskTraining, Training
from stages.tasks import Task
from stages.tasks.batches import collator
from stages.tasks.metrics import scores
from stages.tracking import Run
from stages.tracking.context import is_main

DONE = "complete"
"""Marks a checkpoint that was written to its end; one without it is never resumed from."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a training is judged by."""

    metrics: Sequence[str]
    """Those of the validation split that are reported; the first chooses the checkpoint, the higher the better."""
    score: Callable[[EvalPrediction], dict[str, float]]
    best: bool = True
    """Keep the best checkpoint; False keeps the last."""
    patience: int | None = None
    """Stop after this many evaluations without a better one."""


def train(
    kind: Callable[..., Trainer],
    model: PreTrainedModel,
    settings: Training,
    *,
    goal: Goal,
    train: Dataset,
    validation: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    state: Path,
    key: str,
    seed: int,
    run: Run,
    history: Path,
    **options: Any,
) -> tuple[Trainer, dict[str, float]]:
    """Trains with `kind` of Trainer, from the last complete checkpoint if there is one; keeps what the goal says.

    Args:
        state: folder for checkpoints; those of other settings or inputs (another `key`) are removed.
        key: fingerprint of all that decides the result.
        history: CSV file to write: one row per logged step.
        options: further arguments of `kind`; without a `data_collator` examples are padded to the batch's longest.

    Returns:
        The trainer with that model, and its validation metrics with the training seconds.
    """
    place = state / key
    if is_main() and state.exists():
        for other in {folder for folder in state.iterdir() if folder.is_dir()} - {place}:
            shutil.rmtree(other)
    stop = [EarlyStoppingCallback(goal.patience)] if goal.patience else []
    trainer = kind(
        model=model,
        args=_arguments(settings, goal, len(train), place, seed),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        compute_metrics=goal.score,
        callbacks=[_Mark(), History(run), *stop],
        **({"data_collator": collator(train, tokenizer)} | options),
    )
    if settings.epochs:
        trainer.train(resume_from_checkpoint=_last(place))
    else:
        trainer.evaluate()
    rows = trainer.state.log_history
    seconds = sum(row.get("train_runtime", 0) for row in rows)
    scored = [row for row in rows if _first(goal) in row]
    kept = max(scored, key=lambda row: row[_first(goal)]) if goal.best else scored[-1]
    if trainer.is_world_process_zero():
        write_history(rows, history)
    return trainer, {name: kept[f"eval_{name}"] for name in goal.metrics} | {
        "best_step" if goal.best else "steps": kept["step"],
        "seconds": seconds,
    }


def scored_by(task: Task, settings: TaskTraining) -> Goal:
    """A task's metrics, in points."""
    return Goal(
        metrics=task.metrics,
        score=lambda p: scores(task, np.asarray(p.predictions), np.asarray(p.label_ids)),
        patience=settings.patience,
    )


def with_dropout(model: PreTrainedModel, probability: float) -> PreTrainedModel:
    """The model with this dropout everywhere."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
    return model


def fingerprint(*parts: Any) -> str:
    """A short hash of settings and of the content of files and folders."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            for file in sorted(p for p in [part, *part.rglob("*")] if p.is_file()):
                with file.open("rb") as opened:  # a packed corpus may be larger than the memory
                    digest.update(str(file.relative_to(part)).encode() + hashlib.file_digest(opened, "sha256").digest())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


class OrderedTrainer(Trainer):
    """Trainer whose data order is a function of seed and epoch."""

    loss_is_scaled_for_ga = False
    """Losses here are means over a batch's examples; accumulation divides them by the number of batches."""

    def __init__(self, *args: Any, grouped: bool, **kwargs: Any) -> None:
        self.grouped = grouped
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        lengths = list(self.train_dataset["length"]) if self.grouped else range(len(self.train_dataset))
        return LengthGrouped(lengths, together, self.args.seed, self.grouped)


class LengthGrouped(Sampler[int]):
    """A fresh permutation each epoch, in which those of similar lengths stand together (or not, as asked)."""

    def __init__(self, lengths: Sequence[int], together: int, seed: int, grouped: bool) -> None:
        self.lengths, self.together, self.seed, self.grouped = lengths, together, seed, grouped
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if not self.grouped:
            return map(int, torch.randperm(len(self.lengths), generator=generator))
        return iter(get_length_grouped_indices(self.lengths, self.together, generator=generator))


class History(TrainerCallback):
    """Sends every logged point to the tracked run."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_log(self, args, state, control, logs: dict | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            numbers = {_name(k): v for k, v in (logs or {}).items() if isinstance(v, int | float)}
            self.run.metrics(numbers, step=state.global_step)


def write_history(rows: list[dict], path: Path) -> None:
    """The Trainer's log as a table: step, loss, its terms, the validation scores; empty cells where not taken."""
    rows = [{_name(k): v for k, v in row.items()} for row in rows if "train_runtime" not in row]
    # seconds differ from run to run; the table must not
    hidden = ("runtime", "per_second", "preparation_time")
    first = ["step", "epoch", "loss", "learning_rate", "grad_norm"]
    columns = first + sorted({k for row in rows for k in row if not k.endswith(hidden)} - set(first))
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


class _Mark(TrainerCallback):
    """Marks whole checkpoints, and logs with each: what is summed up for the next log is in none of them."""

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        control.should_log |= control.should_save

    def on_save(self, args, state, control, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / DONE).touch()


def _last(place: Path) -> str | None:
    """The newest complete checkpoint; half-written ones are removed."""
    found = sorted(place.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])) if place.exists() else []
    for partial in [p for p in found if not (p / DONE).exists()]:
        shutil.rmtree(partial)
    whole = [p for p in found if p.exists()]
    return str(whole[-1]) if whole else None


def _arguments(settings: Training, goal: Goal, examples: int, place: Path, seed: int) -> TrainingArguments:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    per_epoch = max(1, -(-examples // (settings.batch_size * settings.gradient_accumulation * world)))
    # never later than the last step, so that there is always a best model
    every = max(1, min(per_epoch // settings.evaluations_per_epoch, math.ceil(settings.epochs * per_epoch)))
    cuda = torch.cuda.is_available()
    bf16 = settings.precision == "bfloat16" or (
        settings.precision == "auto" and cuda and torch.cuda.is_bf16_supported()
    )
    return TrainingArguments(
        output_dir=str(place),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=2 * settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        lr_scheduler_type="linear",
        optim="adamw_torch_fused",
        bf16=bf16,
        use_cpu=not cuda,  # several processes, and bfloat16, are set up on CPUs only when asked for
        seed=seed,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=every,
        save_steps=every,
        save_total_limit=1,
        load_best_model_at_end=goal.best,
        metric_for_best_model=_first(goal),
        greater_is_better=True,
        logging_steps=settings.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would wait for the device in every step
        dataloader_pin_memory=cuda,
        dataloader_num_workers=2 if cuda else 0,
        report_to=[],
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # the same in all processes by themselves
    )


def _first(goal: Goal) -> str:
    return f"eval_{goal.metrics[0]}"


def _name(key: str) -> str:
    return key.replace("eval_", "validation/")
