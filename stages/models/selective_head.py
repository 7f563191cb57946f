"""The head of a language model, masked or causal, at chosen positions and no others.

On all tokens it would cost a small model more than its layers do, and its logits more memory than all else together.
"""

from typing import Any

from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

from stages.models.anatomy import unwrap_low_rank


class SelectiveLMHead:
    """Hooks that apply a language model's head at `positions` (batch, tokens), bool, alone.

    The logits are then (positions, vocabulary), row by row; with `positions` None they are the model's own again.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        dense = unwrap_low_rank(model)
        self.positions: Tensor | None = None
        self.hooks = [
            dense.base_model.register_forward_hook(self._select),
            dense.register_forward_hook(self._flatten),
        ]

    def close(self) -> None:
        """Removes the hooks."""
        for hook in self.hooks:
            hook.remove()

    def _select(self, module: Module, arguments: tuple, output: Any) -> Any:
        if self.positions is not None:
            # a batch of one text: decoders take a slice of the tokens
            output.last_hidden_state = output.last_hidden_state[self.positions].unsqueeze(0)
        return output

    def _flatten(self, module: Module, arguments: tuple, output: Any) -> Any:
        if self.positions is not None:
            output.logits = output.logits.squeeze(0)
        return output


def logits_at_positions(model: PreTrainedModel, inputs: dict[str, Tensor], positions: Tensor) -> Tensor:
    """Logits (positions, vocabulary) where `positions` (batch, tokens) is true, row by row."""
    head = SelectiveLMHead(model)
    head.positions = positions
    try:
        return model(**inputs).logits
    finally:
        head.close()
