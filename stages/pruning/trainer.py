"""Homotopic distillation: the student starts as the teacher and loses dimensions while it is distilled."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.distillation.masked_lm_trainer import MaskedLMTrainer
from stages.errors import BadInput
from stages.models.size import name_by_size
from stages.pruning.compact import compact_model
from stages.pruning.importance import Importance
from stages.pruning.masks import PruningMasks
from stages.pruning.schedule import PruningSchedule, Widths


class PruningTrainer(MaskedLMTrainer):
    """Distills; every `every` steps the least important dimensions are removed; each target is saved as a compact
    model.

    Masks and importance are kept with the student in checkpoints, so that a resumed run prunes the same.

    Args:
        folder: the targets' models go to `<folder>/<layers>x<width>`.
        extra_modules: as of DistillationTrainer.

    Raises:
        BadInput: as training begins, fewer steps than targets.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *args: Any,
        importance: Importance,
        schedule: PruningSchedule,
        every: int,
        folder: Path,
        extra_modules: dict[str, nn.Module],
        **kwargs: Any,
    ) -> None:
        self.masks, self.importance, self.schedule = PruningMasks(model), importance, schedule
        self.every, self.folder, self.widths = every, folder, schedule.whole
        extra_modules = extra_modules | {"masks": self.masks, "importance": importance}
        super().__init__(model, *args, extra_modules=extra_modules, **kwargs)
        self.add_callback(_PruneOnSchedule(self))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The learning rate rises and falls once for each target."""
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer, lambda step: self.schedule.rate_at(step / num_training_steps)
        )
        return self.lr_scheduler

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= self.measure_kept_shares()
        super().log(logs, *args, **kwargs)

    def measure_kept_shares(self) -> dict[str, float]:
        """`kept/<group>`: share of the group's dimensions that remain."""
        shares: dict[str, list[float]] = {}
        for (group, _), removed in self.masks.removal_steps().items():
            shares.setdefault(f"kept/{group}", []).append(float((removed == 0).float().mean()))
        return {name: sum(each) / len(each) for name, each in shares.items()}

    def prune_to(self, step: int, widths: Widths) -> None:
        """To these widths, where the model is wider."""
        if widths == self.widths:  # scores would be added up for nothing
            return self.masks.apply_masks()
        self.masks.remove_dimensions(self.importance.compute_scores(step), widths, step)
        self.masks.update_norms()
        self.widths = widths

    def save_target(self) -> None:
        """The compact model, whole or not at all."""
        if self.is_world_process_zero():
            model = compact_model(self.model.model, self.masks.kept_indices())
            final = self.folder / name_by_size(model)
            partial = final.with_suffix(".partial")
            model.save_pretrained(partial)
            self.processing_class.save_pretrained(partial)
            shutil.rmtree(final, ignore_errors=True)  # of a run that was killed before its checkpoint
            partial.replace(final)


class _PruneOnSchedule(TrainerCallback):
    """Prunes at the schedule's steps."""

    def __init__(self, trainer: PruningTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.max_steps < (count := len(self.trainer.schedule.targets)):
            raise BadInput(
                f"prune.epochs {args.num_train_epochs:g} makes too few steps ({state.max_steps}) for {count} "
                "prune.targets; raise it, or lower prune.batch_size"
            )
        self.trainer.masks.update_norms()  # those of a checkpoint

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.importance.accumulate()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer, step, ends = self.trainer, state.global_step, self.trainer.schedule.end_steps(state.max_steps)
        if step in ends:
            trainer.prune_to(step, trainer.schedule.targets[ends.index(step)])
            trainer.save_target()
            control.should_log = control.should_evaluate = control.should_save = True
        elif step % trainer.every == 0:
            trainer.prune_to(step, trainer.schedule.widths_at(step / state.max_steps))
        else:
            trainer.masks.apply_masks()
