"""Transformers' Trainer with the loss exchanged for the weighted sum of the objectives."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.distillation.capture import Batch, Capture
from stages.distillation.objectives import Objective
from stages.distillation.schedule import turn
from stages.models.anatomy import Parts
from stages.settings import Distill
from stages.training import OrderedTrainer


class DistillationTrainer(OrderedTrainer):
    """Runs teacher and student on each batch and compares them.

    Nothing in a step waits for the device: terms are added up there and read at the logging steps only. Logged per
    term: `loss/<name>` (unweighted mean since the last log), `share/<name>` (of the weighted total) and, when asked
    for, `gradient/<name>` (norm of the weighted term's gradient at the logged step).
    """

    def __init__(self, *args: Any, teacher: PreTrainedModel, distill: Distill, **kwargs: Any) -> None:
        super().__init__(*args, grouped=distill.group_by_length, **kwargs)
        self.settings = distill
        self.objectives = distill.objectives.active()
        self.teacher = teacher.eval().requires_grad_(False).to(self.args.device)
        depth = Parts(teacher).depth
        aspects = {aspect for term in self.objectives.values() for aspect in term.aspects(depth)}
        self.of_teacher, self.of_student = Capture(teacher, aspects), Capture(self.model, aspects)
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any):
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        terms = self._terms(model, dict(inputs))
        weighted = {name: self.objectives[name].weight * value for name, value in terms.items()}
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1
        if self.settings.gradient_norms and (self.state.global_step + 1) % self.args.logging_steps == 0:
            self._gradient_norms(model, weighted)
        return sum(weighted.values())

    def _terms(self, model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        depth = self.of_student.parts.depth
        now = turn(self.settings, self.state.global_step, self.state.max_steps, depth)
        terms: dict[str, Objective] = now.terms(self.objectives, depth)
        labels = inputs.pop("labels")
        batch = Batch(mask=inputs["attention_mask"].float(), labels=labels, layers=now.layers)
        wanted = {a for t in terms.values() for a in t.aspects(depth) if batch.takes(a[1])}
        teacher = None
        if any(term.compares for term in terms.values()):
            with torch.inference_mode():
                teacher = self.of_teacher(self.teacher, inputs, wanted)
        student = self.of_student(model, inputs, wanted)
        return {name: term(student, teacher, batch) for name, term in terms.items()}

    def _gradient_norms(self, model: nn.Module, weighted: dict[str, Tensor]) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        for name, value in weighted.items():
            gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            norms = torch.stack([g.norm() for g in gradients if g is not None])
            self.sums[f"gradient/{name}"], self.counts[f"gradient/{name}"] = norms.norm(), 1

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.sums:
            means = {n: self.accelerator.reduce(v / self.counts[n], "mean").item() for n, v in self.sums.items()}
            gradients = {n: means.pop(n) for n in list(means) if n.startswith("gradient/")}
            # terms that have their turn in some steps only count by how often they had it
            parts = {n: self.objectives[n].weight * v * self.counts[n] for n, v in means.items()}
            total = sum(parts.values()) or 1.0
            logs |= {f"loss/{n}": v for n, v in means.items()} | {f"share/{n}": v / total for n, v in parts.items()}
            logs |= gradients
            self.sums, self.counts = {}, {}
        super().log(logs, *args, **kwargs)
