"""Resumable training: which checkpoints are complete, and which are of other settings."""

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.tracking.context import is_main

COMPLETE = "complete"
"""Marks a checkpoint that was written to its end; one without it is never resumed from."""


class MarkComplete(TrainerCallback):
    """Marks complete checkpoints, and logs with each: sums for the next log are in none of them."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_log |= control.should_save

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def find_last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint; incomplete ones are removed."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    for partial in [p for p in checkpoints if not (p / COMPLETE).exists()]:
        shutil.rmtree(partial)
    complete = [p for p in checkpoints if p.exists()]
    return str(complete[-1]) if complete else None


def remove_other_runs(state: Path, fingerprint: str) -> Path:
    """The folder for checkpoints of these settings and inputs; those of others are removed."""
    folder = state / fingerprint
    if is_main() and state.exists():
        for other in {place for place in state.iterdir() if place.is_dir()} - {folder}:
            shutil.rmtree(other)
    return folder
