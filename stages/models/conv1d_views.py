"""GPT-2's matrices in a dense model, seen as linear maps.

GPT-2 stores its weights as (in, out), and Q, K and V side by side in one matrix, `c_attn`. A dense GPT-2 stays so, for
anybody to load; where the project needs a matrix of its own, it gets these views. Low-rank models have real linear
modules in their place (`replace_conv1d` in modeling.py).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.pytorch_utils import Conv1D


class Conv1DView:
    """One of `parts` equal parts of a Conv1D's output; acts as a module that is called, hooked, or whose weight is
    read.
    """

    def __init__(self, whole: Conv1D, index: int = 0, parts: int = 1) -> None:
        self.whole, self.index, self.parts = whole, index, parts

    def __call__(self, x: Tensor) -> Tensor:
        """Shapes: x (..., in) -> (..., out)."""
        return self._part_of(self.whole(x))

    @property
    def weight(self) -> Tensor:
        """(out, in), a view."""
        return self._part_of(self.whole.weight).T

    @property
    def out_features(self) -> int:
        return self.whole.nf // self.parts

    def register_forward_hook(self, hook: Callable[..., Any]) -> Any:
        """As a module's: hook(module, inputs, output), the output being this part's."""
        return self.whole.register_forward_hook(lambda module, args, out: hook(module, args, self._part_of(out)))

    def _part_of(self, x: Tensor) -> Tensor:
        return x.chunk(self.parts, dim=-1)[self.index]
