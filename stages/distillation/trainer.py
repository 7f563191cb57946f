"""Transformers' Trainer with the loss replaced by the weighted sum of the objectives."""

import inspect
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Value
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.distillation.capture import Capture, CapturedOutputs, measure_shape
from stages.distillation.logit_cache import CachedLogitsCollator, TeacherLogits, open_logit_cache
from stages.distillation.schedule import list_aspects, plan_step
from stages.errors import BadInput
from stages.models.anatomy import ModelParts
from stages.objectives.base import Objective, value_at
from stages.objectives.inputs import Batch
from stages.settings import Distill
from stages.tasks.batches import iterate_batches
from stages.training.data_order import OrderedTrainer


class StudentModule(nn.Module):
    """The student, and what its objectives learn with it (projections, memory banks).

    As one module they are optimized, checkpointed and spread over processes together; only the student is saved.
    """

    accepts_loss_kwargs = False
    """Losses are means of the batch; the Trainer's own count of items is not for the model."""

    def __init__(self, model: PreTrainedModel, learned: dict[str, nn.Module]) -> None:
        super().__init__()
        self.model, self.learned, self.config = model, nn.ModuleDict(learned), model.config
        self._keys_to_ignore_on_save = _list_second_names(self) or None

    def forward(self, **inputs: Tensor) -> Any:
        return self.model(**inputs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Every tensor once: a checkpoint's format cannot hold tied tensors twice."""
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
    term: `loss/<name>` (unweighted mean since the last log), `share/<name>` (of the weighted total) and, where set,
    `gradient/<name>` (norm of the weighted term's gradient at the logged step).
    """

    setting = "distill.objectives"
    """What an error says to change."""

    def __init__(
        self,
        model: PreTrainedModel,
        *args: Any,
        teacher: PreTrainedModel,
        distill: Distill,
        extra_modules: dict[str, nn.Module] | None = None,
        cache_path: Path | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            extra_modules: further modules to be checkpointed with the student; under an objective's name, what that one
                learns.
            cache_path: file for the teacher's logits on the training split; needed where the settings have `offline`.
        """
        self.settings, self.objectives = distill, distill.objectives.active_terms()
        self.shapes = measure_shape(ModelParts(model)), measure_shape(ModelParts(teacher))
        self.pairs = {name: self._ask_objective(name, "layer_pairs") for name in self.objectives}
        self.student_capture = Capture(model, list_aspects(self.objectives, self.pairs, "student"))
        self.teacher_capture = Capture(teacher, list_aspects(self.objectives, self.pairs, "teacher"))
        train = kwargs["train_dataset"]
        labels = list(train["labels"]) if isinstance(train.features.get("labels"), Value) else []  # classes or values
        learned = {name: self._ask_objective(name, "learned_modules", labels) for name in self.objectives}
        learned |= extra_modules or {}
        self.columns = [*inspect.signature(model.forward).parameters, "index"]
        kwargs["train_dataset"] = train.add_column("index", range(len(train)))
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        student = StudentModule(model, {name: module for name, module in learned.items() if module is not None})
        super().__init__(student, *args, **kwargs)
        self.teacher = teacher.eval().requires_grad_(False).to(self.args.device)
        self.cached_logits: CachedLogitsCollator | None = None
        if distill.offline and distill.objectives.use_teacher():
            if cache_path is None:
                raise ValueError("offline distillation needs `cache_path`, a file for the teacher's logits")
            counts, classes = self._count_rows(train)
            logits = self._run_teacher(train)
            cache = open_logit_cache(distill.offline, cache_path, counts=counts, classes=classes, logits=logits)
            self.data_collator = self.cached_logits = CachedLogitsCollator(self.data_collator, cache)

    def _ask_objective(self, name: str, method: str, *arguments: Any) -> Any:
        """Calls an objective's method with the shapes of both models; its refusal is the user's to mend."""
        try:
            return getattr(self.objectives[name], method)(*self.shapes, *arguments)
        except ValueError as error:
            raise BadInput(f"{self.setting}.{name}: {error}") from None

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any):
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        progress = self.state.global_step / max(1, self.state.max_steps)
        terms, idle = self._compute_terms(model, dict(inputs), progress)
        weighted = {name: value_at(self.objectives[name].weight, progress) * value for name, value in terms.items()}
        self._add_to_log({f"loss/{name}": value for name, value in terms.items()})
        self._add_to_log({f"share/{name}": value for name, value in weighted.items()})
        if self.settings.gradient_norms and (self.state.global_step + 1) % self.args.logging_steps == 0:
            self._log_gradient_norms(model, weighted)
        return sum(weighted.values()) + 0.0 * idle

    def _compute_terms(
        self, model: nn.Module, inputs: dict[str, Tensor], progress: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The objectives of this step; and a scalar that depends on all that is trained, compared now or not.

        Processes that share their gradients wait for those of every parameter, in every step.
        """
        layers, terms = self._plan_terms(progress)
        cached = None if self.cached_logits is None else self.cached_logits.pop_logits(inputs)
        inputs, known = self._read_batch(inputs)
        batch = Batch(mask=inputs["attention_mask"].float(), layers=layers, progress=progress, **known)
        teacher = None
        if cached is not None:
            teacher = CapturedOutputs(self.teacher_capture.parts, self.teacher_capture.shape, cached, {})
        elif any(term.uses_teacher for term in terms.values()):
            with torch.inference_mode():
                aspects = list_aspects(terms, self.pairs, "teacher", batch)
                teacher = self.teacher_capture(self.teacher, inputs, aspects)
        student = self.student_capture(model, inputs, list_aspects(terms, self.pairs, "student", batch))
        learned = dict(self.model.learned.items())
        unused = [p for name, module in learned.items() if name not in terms for p in module.parameters()]
        idle = sum((p.sum() for p in unused), student.logits.sum())
        return {name: term(student, teacher, batch, learned.get(name)) for name, term in terms.items()}, idle

    def _plan_terms(self, progress: float) -> tuple[Collection[int] | None, dict[str, Objective]]:
        """The student's layers that are compared in this step, None for all, and the objectives."""
        plan = plan_step(self.settings, progress, self.state.global_step, self.shapes[0].depth)
        return plan.layers, plan.select_terms(self.objectives, self.pairs)

    def _read_batch(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The inputs of both models, and what the objectives know of the batch: fields of Batch."""
        known = {name: inputs.pop(name) for name in ("labels", "index")}
        return inputs, known

    def _count_rows(self, train: Dataset) -> tuple[Sequence[int], int]:
        """How many rows of logits each example has, and of how many classes."""
        return [1] * len(train), self.teacher.config.num_labels

    def _run_teacher(self, train: Dataset) -> TeacherLogits:
        """The teacher's logits of all examples, those of similar lengths together."""
        title = "distill: the teacher's logits"
        for index, batch in iterate_batches(train, self.processing_class, self.args.train_batch_size, title):
            inputs, _ = self._read_batch(self._prepare_inputs(batch | {"index": torch.tensor(index)}))
            with torch.inference_mode():
                yield index, self.teacher_capture(self.teacher, inputs, ()).logits

    def _add_to_log(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1

    def _log_gradient_norms(self, model: nn.Module, weighted: dict[str, Tensor]) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        for name, value in weighted.items():
            gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            norms = torch.stack([g.norm() for g in gradients if g is not None])
            self.sums[f"gradient/{name}"], self.counts[f"gradient/{name}"] = norms.norm(), 1

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.sums:
            sums = {n: self.accelerator.reduce(v, "mean").item() for n, v in self.sums.items()}
            # shares are of sums: terms that are compared in some steps only count by how often they were
            total = sum(v for n, v in sums.items() if n.startswith("share/")) or 1.0
            logs |= {n: v / (total if n.startswith("share/") else self.counts[n]) for n, v in sums.items()}
            self.sums, self.counts = {}, {}
        super().log(logs, *args, **kwargs)

    def save_student(self, folder: Path) -> None:
        """The student alone, with its tokenizer."""
        if self.is_world_process_zero():
            self.model.model.save_pretrained(folder)
            self.processing_class.save_pretrained(folder)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*self.columns, *self.label_names]  # the wrapper's own signature names nothing


def _list_second_names(model: nn.Module) -> list[str]:
    """Names of tensors that have an earlier name."""
    first: dict[int, str] = {}
    return [
        name for name, tensor in model.state_dict(keep_vars=True).items() if first.setdefault(id(tensor), name) != name
    ]
