"""Distillation of language models: what both models say is compared where a token is asked for, and nowhere else."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.distillation.distances import divergence
from stages.distillation.trainer import DistillationTrainer
from stages.language.scores import Question, answered, summed
from stages.models.anatomy import Parts
from stages.models.heads import AskedHead
from stages.settings import BadInput


class LanguageModelTrainer(DistillationTrainer):
    """The objectives' logits are (places, vocabulary), their labels the right tokens: those of the asked positions.

    Raises:
        BadInput: the models have different vocabularies.
    """

    def __init__(self, model: PreTrainedModel, *args: Any, teacher: PreTrainedModel, **kwargs: Any) -> None:
        _require_one_vocabulary(model, teacher)
        self.heads = [AskedHead(model), AskedHead(teacher)]
        super().__init__(model, *args, teacher=teacher, **kwargs)

    def question(self, inputs: dict[str, Tensor]) -> Question:
        """What is asked of a validation batch."""
        raise NotImplementedError

    def drawn(self, inputs: dict[str, Tensor], index: Tensor) -> Question:
        """What is asked of a training batch, whose examples are at these places of the split, (batch,)."""
        return self.question(inputs)

    def _read(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        index = inputs.pop("index")
        asked = self.drawn(inputs, index)
        return self._at(asked), {"labels": asked.answers, "rows": asked.where.nonzero()[:, 0], "index": index}

    def _at(self, asked: Question) -> dict[str, Tensor]:
        """Inputs of both models, whose heads answer at the asked positions alone."""
        for head in self.heads:
            head.where = asked.where
        return asked.inputs

    def close(self) -> None:
        """Gives both models back as they were."""
        for part in (*self.heads, self.of_student, self.of_teacher):
            part.close()

    def prediction_step(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any):
        """For each example, in place of logits and labels, what `sums` says of it, and how many tokens were asked."""
        asked = self.question(self._prepare_inputs(inputs))
        with torch.inference_mode(), self.compute_loss_context_manager():
            read = self._at(asked)
            ours, theirs = (m(**read).logits for m in (model, self.teacher))
            return None, sums(ours, theirs, asked), asked.where.sum(1)


def sums(ours: Tensor, theirs: Tensor, asked: Question) -> Tensor:
    """For each example the sums over its places of −log q(y), hits and KL(p‖q); (batch, 3).

    Shapes: logits q and p (places, vocabulary).
    """
    distance = divergence(ours.float(), theirs.float())
    return summed(torch.cat([answered(ours, asked.answers), distance.unsqueeze(1)], dim=1), asked.where)


def discrepancy(said: np.ndarray, tokens: np.ndarray) -> float:
    """Mean KL(teacher‖student), nats per token; of `sums` (examples, 3) and the tokens asked for (examples,)."""
    return float(said[:, 2].sum(dtype=float) / tokens.sum())


def _require_one_vocabulary(model: PreTrainedModel, teacher: PreTrainedModel) -> None:
    own, theirs = (Parts(each).config.vocab_size for each in (model, teacher))
    if own != theirs:
        raise BadInput(
            f"the student has {own:,} tokens and the teacher {theirs:,}: what they say cannot be compared; make the "
            "student by `factorize` from this teacher, or with factorize.start from a model of its tokenizer"
        )
