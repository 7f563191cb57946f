"""Homotopic distillation: the student starts as the teacher and loses dimensions while it is distilled."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, TrainerCallback

from stages.distillation.masked_lm import MaskedLMTrainer
from stages.models.size import named
from stages.pruning.compact import compact
from stages.pruning.importance import Importance
from stages.pruning.masks import Masks
from stages.pruning.schedule import Schedule, Widths
from stages.settings import BadInput


class PruningTrainer(MaskedLMTrainer):
    """Distills; every `every` steps the least important dimensions go; each target is saved as a compact model.

    Masks and scores are kept with the student in checkpoints, so that a resumed run cuts the same.

    Args:
        folder: the targets' models go to `<folder>/<layers>x<width>`.

    Raises:
        BadInput: as training begins, fewer steps than targets.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *args: Any,
        importance: Importance,
        schedule: Schedule,
        every: int,
        folder: Path,
        beside: dict[str, nn.Module],
        **kwargs: Any,
    ) -> None:
        self.masks, self.importance, self.plan = Masks(model), importance, schedule
        self.every, self.folder, self.widths = every, folder, schedule.whole
        beside = beside | {"masks": self.masks, "importance": importance}
        super().__init__(model, *args, beside=beside, **kwargs)
        self.add_callback(_Cuts(self))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The learning rate rises and falls once for each target."""
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer, lambda step: self.plan.rate(step / num_training_steps)
        )
        return self.lr_scheduler

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= self.shares()
        super().log(logs, *args, **kwargs)

    def shares(self) -> dict[str, float]:
        """`kept/<group>`: share of the group's dimensions that are there."""
        found: dict[str, list[float]] = {}
        for (group, _), gone in self.masks.gone().items():
            found.setdefault(f"kept/{group}", []).append(float((gone == 0).float().mean()))
        return {name: sum(each) / len(each) for name, each in found.items()}

    def cut(self, step: int, widths: Widths) -> None:
        """To these widths, where the model is wider."""
        if widths == self.widths:  # scores would be added up for nothing
            return self.masks.apply_masks()
        self.masks.cut(self.importance.scores(step), widths, step)
        self.masks.refresh()
        self.widths = widths

    def save_target(self) -> None:
        """The compact model, whole or not at all."""
        if self.is_world_process_zero():
            model = compact(self.model.model, self.masks.kept())
            final = self.folder / named(model)
            partial = final.with_suffix(".partial")
            model.save_pretrained(partial)
            self.processing_class.save_pretrained(partial)
            shutil.rmtree(final, ignore_errors=True)  # of a run that was killed before its checkpoint
            partial.replace(final)


class _Cuts(TrainerCallback):
    """When what is pruned."""

    def __init__(self, trainer: PruningTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs: Any) -> None:
        if state.max_steps < (count := len(self.trainer.plan.targets)):
            raise BadInput(
                f"prune.epochs {args.num_train_epochs:g} makes too few steps ({state.max_steps}) for {count} "
                "prune.targets; raise it, or lower prune.batch_size"
            )
        self.trainer.masks.refresh()  # those of a checkpoint

    def on_pre_optimizer_step(self, args, state, control, **kwargs: Any) -> None:
        self.trainer.importance.update()

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        trainer, step, ends = self.trainer, state.global_step, self.trainer.plan.ends(state.max_steps)
        if step in ends:
            trainer.cut(step, trainer.plan.targets[ends.index(step)])
            trainer.save_target()
            control.should_log = control.should_evaluate = control.should_save = True
        elif step % trainer.every == 0:
            trainer.cut(step, trainer.plan.widths(step / state.max_steps))
        else:
            trainer.masks.apply_masks()
