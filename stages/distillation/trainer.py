"""Transformers' Trainer with the loss exchanged for the weighted sum of the objectives."""

import inspect
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Value
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.distillation.capture import Batch, Capture, Captured, wanted
from stages.distillation.objectives.base import Objective, at
from stages.distillation.offline import Beside, Said, keep
from stages.distillation.schedule import turn
from stages.models.anatomy import Parts
from stages.settings import BadInput, Distill
from stages.tasks.batches import batches
from stages.training import OrderedTrainer


class Student(nn.Module):
    """The student, and what its objectives learn beside it (projections, memories).

    As one module they are optimized, checkpointed and spread over processes together; only the student is kept.
    """

    accepts_loss_kwargs = False
    """Losses are means of the batch; the Trainer's own count of items is not for the model."""

    def __init__(self, model: PreTrainedModel, learned: dict[str, nn.Module]) -> None:
        super().__init__()
        self.model, self.learned, self.config = model, nn.ModuleDict(learned), model.config
        self._keys_to_ignore_on_save = _second_names(self) or None

    def forward(self, **inputs: Tensor) -> Any:
        return self.model(**inputs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Every tensor once: a checkpoint's format cannot hold twice what a model ties."""
        whole = super().state_dict(*args, **kwargs)
        return {
            name: tensor
            for name, tensor in whole.items()
            if name not in (getattr(self, "_keys_to_ignore_on_save", None) or ())
        }

    def tie_weights(self) -> None:
        """For the Trainer, where a checkpoint lacks the second names of tied tensors."""
        self.model.tie_weights()


class DistillationTrainer(OrderedTrainer):
    """Runs teacher and student on each batch and compares them; BadInput where an objective cannot.

    Nothing in a step waits for the device: terms are added up there and read at the logging steps only. Logged per
    term: `loss/<name>` (unweighted mean since the last log), `share/<name>` (of the weighted total) and, when asked
    for, `gradient/<name>` (norm of the weighted term's gradient at the logged step).
    """

    setting = "distill.objectives"
    """What an error says to change."""

    def __init__(
        self,
        model: PreTrainedModel,
        *args: Any,
        teacher: PreTrainedModel,
        distill: Distill,
        beside: dict[str, nn.Module] | None = None,
        offline: Path | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            beside: further modules to be kept with the student; under an objective's name, what that one learns.
            offline: file for what the teacher says of the training split; needed where the settings have `offline`.
        """
        self.settings, self.objectives = distill, distill.objectives.active()
        parts, theirs = Parts(model), Parts(teacher)
        self.shapes = parts.shape, theirs.shape
        self.pairs = {name: self._ask(name, "pairs") for name in self.objectives}
        self.of_student, self.of_teacher = (
            Capture(m, wanted(self.objectives, self.pairs, side))
            for m, side in ((model, "student"), (teacher, "teacher"))
        )
        train = kwargs["train_dataset"]
        labels = list(train["labels"]) if isinstance(train.features.get("labels"), Value) else []  # classes or values
        learned = {name: self._ask(name, "learned", labels) for name in self.objectives} | (beside or {})
        self.columns = [*inspect.signature(model.forward).parameters, "index"]
        kwargs["train_dataset"] = train.add_column("index", range(len(train)))
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        student = Student(model, {name: module for name, module in learned.items() if module is not None})
        super().__init__(student, *args, **kwargs)
        self.teacher = teacher.eval().requires_grad_(False).to(self.args.device)
        self.said: Beside | None = None
        if distill.offline and distill.objectives.compare():
            counts, classes = self._rows(train)
            kept = keep(distill.offline, offline, counts=counts, classes=classes, said=self._ask_teacher(train))
            self.data_collator = self.said = Beside(self.data_collator, kept)

    def _ask(self, name: str, what: str, *arguments: Any) -> Any:
        """What an objective says of these models; that it cannot compare them is the user's to know."""
        try:
            return getattr(self.objectives[name], what)(*self.shapes, *arguments)
        except ValueError as error:
            raise BadInput(f"{self.setting}.{name}: {error}") from None

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any):
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        progress = self.state.global_step / max(1, self.state.max_steps)
        terms, idle = self._terms(model, dict(inputs), progress)
        weighted = {name: at(self.objectives[name].weight, progress) * value for name, value in terms.items()}
        self._add({f"loss/{name}": v for name, v in terms.items()} | {f"share/{n}": v for n, v in weighted.items()})
        if self.settings.gradient_norms and (self.state.global_step + 1) % self.args.logging_steps == 0:
            self._gradient_norms(model, weighted)
        return sum(weighted.values()) + 0.0 * idle

    def _terms(self, model: nn.Module, inputs: dict[str, Tensor], progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """The objectives whose turn it is; and a scalar that hangs on all that is trained, in its turn or not.

        Processes that share their gradients wait for those of every parameter, in every step.
        """
        layers, terms = self._counting(progress)
        said = self.said and self.said.taken(inputs)
        inputs, known = self._read(inputs)
        batch = Batch(mask=inputs["attention_mask"].float(), layers=layers, progress=progress, **known)
        teacher = None
        if said is not None:
            teacher = Captured(self.of_teacher.parts, said, {})
        elif any(term.compares for term in terms.values()):
            with torch.inference_mode():
                teacher = self.of_teacher(self.teacher, inputs, wanted(terms, self.pairs, "teacher", batch))
        student = self.of_student(model, inputs, wanted(terms, self.pairs, "student", batch))
        learned = dict(self.model.learned.items())
        waiting = [p for name, module in learned.items() if name not in terms for p in module.parameters()]
        idle = sum((p.sum() for p in waiting), student.logits.sum())
        return {name: term(student, teacher, batch, learned.get(name)) for name, term in terms.items()}, idle

    def _counting(self, progress: float) -> tuple[Collection[int] | None, dict[str, Objective]]:
        """The student's layers whose turn it is, None for all, and the objectives."""
        now = turn(self.settings, progress, self.state.global_step, self.shapes[0].depth)
        return now.layers, now.terms(self.objectives, self.pairs)

    def _read(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the models read of a batch, and what the objectives know of it: fields of Batch."""
        known = {name: inputs.pop(name) for name in ("labels", "index")}
        return inputs, known

    def _rows(self, train: Dataset) -> tuple[Sequence[int], int]:
        """How many rows of logits each example has, and of how many classes."""
        return [1] * len(train), self.teacher.config.num_labels

    def _ask_teacher(self, train: Dataset) -> Said:
        """The teacher's logits of all examples, those of similar lengths together."""
        for index, batch in batches(train, self.processing_class, self.args.train_batch_size, "offline teacher"):
            inputs, _ = self._read(self._prepare_inputs(batch | {"index": torch.tensor(index)}))
            with torch.inference_mode():
                yield index, self.of_teacher(self.teacher, inputs, ()).logits

    def _add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1

    def _gradient_norms(self, model: nn.Module, weighted: dict[str, Tensor]) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        for name, value in weighted.items():
            gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            norms = torch.stack([g.norm() for g in gradients if g is not None])
            self.sums[f"gradient/{name}"], self.counts[f"gradient/{name}"] = norms.norm(), 1

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.sums:
            found = {n: self.accelerator.reduce(v, "mean").item() for n, v in self.sums.items()}
            # shares are of sums: terms that have their turn in some steps only count by how often they had it
            total = sum(v for n, v in found.items() if n.startswith("share/")) or 1.0
            logs |= {n: v / (total if n.startswith("share/") else self.counts[n]) for n, v in found.items()}
            self.sums, self.counts = {}, {}
        super().log(logs, *args, **kwargs)

    def save_student(self, folder: Path) -> None:
        """The student alone, with its tokenizer."""
        if self.is_world_process_zero():
            self.model.model.save_pretrained(folder)
            self.processing_class.save_pretrained(folder)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*self.columns, *self.label_names]  # the wrapper's own signature names nothing


def _second_names(model: nn.Module) -> list[str]:
    """Names of tensors that have another name before."""
    first: dict[int, str] = {}
    return [
        name for name, tensor in model.state_dict(keep_vars=True).items() if first.setdefault(id(tensor), name) != name
    ]
