"""The head of a language model, masked or causal, at the positions that are asked for and no others.

On all tokens it would cost a small model more than its layers do, and its logits more memory than all else together.
"""

from typing import TYPE_CHECKING, Any

from stages.models.anatomy import plain

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel


class AskedHead:
    """Hooks that let a language model's head answer at the places `where` (batch, tokens) alone.

    The logits are then (places, vocabulary), row by row; with `where` None they are the model's own again.
    """

    def __init__(self, model: "PreTrainedModel") -> None:
        dense = plain(model)
        self.where: Tensor | None = None
        self.hooks = [
            dense.base_model.register_forward_hook(self._select),
            dense.register_forward_hook(self._flatten),
        ]

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _select(self, module: "Module", arguments: tuple, output: Any) -> Any:
        if self.where is not None:
            # a batch of one text: decoders take a slice of the tokens
            output.last_hidden_state = output.last_hidden_state[self.where].unsqueeze(0)
        return output

    def _flatten(self, module: "Module", arguments: tuple, output: Any) -> Any:
        if self.where is not None:
            output.logits = output.logits.squeeze(0)
        return output


def logits_at(model: "PreTrainedModel", inputs: dict[str, "Tensor"], where: "Tensor") -> "Tensor":
    """Logits (positions, vocabulary) at the positions that `where` (batch, tokens) marks, row by row."""
    head = AskedHead(model)
    head.where = where
    try:
        return model(**inputs).logits
    finally:
        head.close()
