"""Fine-tuning a causal language model on its own labels."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.language.scores import answered, next_tokens, summed
from stages.models.heads import AskedHead
from stages.training import OrderedTrainer


class NextTokenTrainer(OrderedTrainer):
    """Next-token prediction; the head answers at the asked positions alone.

    L = mean_b mean_i −log q(y_bi)

    First over an example's tokens, then over examples, as `hard` has it: how batches are padded or accumulated changes
    nothing. Blocks of packed text all have the same number of tokens: there it is the mean over tokens.
    """

    def __init__(self, model: PreTrainedModel, **kwargs: Any) -> None:
        self.head = AskedHead(model)
        super().__init__(model, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        said, tokens = self._said(model, inputs)
        return (said[:, 0] / tokens).mean()

    def prediction_step(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any):
        """For each example, in place of logits and labels, what `stages.tasks.metrics.scores` takes of it."""
        with torch.inference_mode(), self.compute_loss_context_manager():
            return None, *self._said(model, self._prepare_inputs(inputs))

    def _said(self, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sums of −log q(y) and of hits, (batch, 2), and how many tokens were asked for, (batch,)."""
        read, self.head.where, answers = next_tokens(inputs)
        logits = model(**read, use_cache=False).logits
        return summed(answered(logits, answers), self.head.where), self.head.where.sum(1)
