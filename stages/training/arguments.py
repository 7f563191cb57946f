"""The settings of a training as arguments of Transformers' Trainer."""

import math
import os
from pathlib import Path

import torch
from transformers import TrainingArguments

from stages.settings import Training


def make_arguments(
    settings: Training, examples: int, folder: Path, seed: int, *, metric: str, keep_best: bool
) -> TrainingArguments:
    """The Trainer's arguments.

    Args:
        examples: of the training split.
        folder: for checkpoints.
        metric: chooses the checkpoint, the higher the better.
        keep_best: load the best checkpoint at the end; otherwise the last is kept.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    per_epoch = max(1, -(-examples // (settings.batch_size * settings.gradient_accumulation * world)))
    # never later than the last step, so that there is always a best model
    interval = max(1, min(per_epoch // settings.evaluations_per_epoch, math.ceil(settings.epochs * per_epoch)))
    cuda = torch.cuda.is_available()
    bf16 = settings.precision == "bfloat16" or (
        settings.precision == "auto" and cuda and torch.cuda.is_bf16_supported()
    )
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=2 * settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        lr_scheduler_type="linear",
        optim="adamw_torch_fused",
        bf16=bf16,
        use_cpu=not cuda,  # several processes, and bfloat16, are set up on CPUs only when asked for
        seed=seed,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=interval,
        save_steps=interval,
        save_total_limit=1,
        load_best_model_at_end=keep_best,
        metric_for_best_model=f"eval_{metric}",
        greater_is_better=True,
        logging_steps=settings.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would wait for the device in every step
        dataloader_pin_memory=cuda,
        dataloader_num_workers=2 if cuda else 0,
        disable_tqdm=True,  # progress is shown by history.py
        report_to=[],
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # the same in all processes by themselves
    )
