"""What a training logs: to the tracked run, to a table, to the terminal."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.progress import Progress
from stages.tracking import Run


class TrackMetrics(TrainerCallback):
    """Sends every logged point to the tracked run."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero:
            numbers = {_rename(k): v for k, v in (logs or {}).items() if isinstance(v, int | float)}
            self.run.log_metrics(numbers, step=state.global_step)


class ShowProgress(TrainerCallback):
    """One progress line: share of the steps, the loss, the validation score so far, the time left.

    Args:
        metric: the validation metric to show.
    """

    def __init__(self, title: str, metric: str) -> None:
        self.title, self.metric = title, metric
        self.progress: Progress | None = None
        self.figures: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.progress = Progress(self.title, state.max_steps).__enter__()
            self.progress.advance(state.global_step)  # of a resumed training

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.progress:
            self.progress.advance(1, **self.figures)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("loss", f"eval_{self.metric}"):
            if name in (logs or {}):
                self.figures[name.removeprefix("eval_")] = (logs or {})[name]

    def close(self) -> None:
        """Ends the line, however the training ended."""
        if self.progress:
            self.progress.__exit__(None, None, None)


def write_history(rows: list[dict[str, Any]], path: Path) -> None:
    """The Trainer's log as a table: step, loss, its terms, the validation scores; empty cells where not taken."""
    rows = [{_rename(k): v for k, v in row.items()} for row in rows if "train_runtime" not in row]
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


def _rename(key: str) -> str:
    return key.replace("eval_", "validation/")
