"""Fine-tuning a causal language model on its own labels."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.language.token_targets import next_token_targets, sum_per_example, token_nll
from stages.models.selective_head import SelectiveLMHead
from stages.training.data_order import OrderedTrainer


class NextTokenTrainer(OrderedTrainer):
    """Next-token prediction; the head is applied at the predicted positions alone.

    L = mean_b mean_i −log q(y_bi)

    First over an example's tokens, then over examples, as `hard` has it: how batches are padded or accumulated changes
    nothing. Blocks of packed text all have the same number of tokens: there it is the mean over tokens.
    """

    def __init__(self, model: PreTrainedModel, **kwargs: Any) -> None:
        self.head = SelectiveLMHead(model)
        super().__init__(model, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        sums, tokens = self._sum_predictions(model, inputs)
        return (sums[:, 0] / tokens).mean()

    def prediction_step(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any):
        """For each example, in place of logits and labels, the sums that `TokenScorer` scores."""
        with torch.inference_mode(), self.compute_loss_context_manager():
            return None, *self._sum_predictions(model, self._prepare_inputs(inputs))

    def _sum_predictions(self, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sums of −log q(y) and of correct tokens, (batch, 2), and the number of predicted tokens, (batch,)."""
        targets = next_token_targets(inputs)
        self.head.positions = targets.positions
        logits = model(**targets.inputs, use_cache=False).logits
        return sum_per_example(token_nll(logits, targets.tokens), targets.positions), targets.positions.sum(1)
