"""Distillation of language models: both models are compared where a token is predicted, and nowhere else."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.distillation.trainer import DistillationTrainer
from stages.errors import BadInput
from stages.language.token_targets import TokenTargets, sum_per_example, token_nll
from stages.models.anatomy import ModelParts
from stages.models.selective_head import SelectiveLMHead
from stages.objectives.distances import kl_divergence


class LMDistillationTrainer(DistillationTrainer):
    """The objectives' logits are (positions, vocabulary), their labels the right tokens: those of predicted positions.

    Raises:
        BadInput: the models have different vocabularies.
    """

    def __init__(self, model: PreTrainedModel, *args: Any, teacher: PreTrainedModel, **kwargs: Any) -> None:
        _require_equal_vocabulary_size(model, teacher)
        self.heads = [SelectiveLMHead(model), SelectiveLMHead(teacher)]
        super().__init__(model, *args, teacher=teacher, **kwargs)

    def make_targets(self, inputs: dict[str, Tensor]) -> TokenTargets:
        """What is predicted of a validation batch."""
        raise NotImplementedError

    def draw_targets(self, inputs: dict[str, Tensor], index: Tensor) -> TokenTargets:
        """What is predicted of a training batch, whose examples have these indices in the split, (batch,)."""
        return self.make_targets(inputs)

    def _read_batch(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        index = inputs.pop("index")
        targets = self.draw_targets(inputs, index)
        known = {"labels": targets.tokens, "rows": targets.positions.nonzero()[:, 0], "index": index}
        return self._select_positions(targets), known

    def _select_positions(self, targets: TokenTargets) -> dict[str, Tensor]:
        """Inputs of both models, whose heads are applied at the predicted positions alone."""
        for head in self.heads:
            head.positions = targets.positions
        return targets.inputs

    def close(self) -> None:
        """Removes all hooks from both models."""
        for part in (*self.heads, self.student_capture, self.teacher_capture):
            part.close()

    def prediction_step(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any):
        """For each example, in place of logits and labels, its sums of `sum_comparison`, and the number of tokens."""
        targets = self.make_targets(self._prepare_inputs(inputs))
        with torch.inference_mode(), self.compute_loss_context_manager():
            read = self._select_positions(targets)
            ours, theirs = (m(**read).logits for m in (model, self.teacher))
            return None, sum_comparison(ours, theirs, targets), targets.positions.sum(1)


def sum_comparison(student: Tensor, teacher: Tensor, targets: TokenTargets) -> Tensor:
    """For each example the sums over its positions of −log q(y), correct tokens and KL(p‖q); (batch, 3).

    Shapes: logits q and p (positions, vocabulary).
    """
    distance = kl_divergence(student.float(), teacher.float())
    values = torch.cat([token_nll(student, targets.tokens), distance.unsqueeze(1)], dim=1)
    return sum_per_example(values, targets.positions)


def mean_discrepancy(sums: np.ndarray, tokens: np.ndarray) -> float:
    """Mean KL(teacher‖student), nats per token; of `sum_comparison` (examples, 3) and the numbers of tokens."""
    return float(sums[:, 2].sum(dtype=float) / tokens.sum())


def _require_equal_vocabulary_size(model: PreTrainedModel, teacher: PreTrainedModel) -> None:
    own, theirs = (ModelParts(each).config.vocab_size for each in (model, teacher))
    if own != theirs:
        raise BadInput(
            f"the student has {own:,} tokens and the teacher {theirs:,}: their logits cannot be compared; make the "
            "student by `factorize` from this teacher, or with factorize.pretrained_student from a model of its "
            "tokenizer"
        )
