"""GPT-2's matrices as they lie in a dense model, seen as linear maps.

GPT-2 keeps its weights as (in, out), and Q, K and V side by side in one matrix, `c_attn`. A dense GPT-2 stays so, for
anybody to load; where the project asks for a matrix of its own, it gets these views. Low-rank models have real linear
modules in their place (`separate` in stages/lowrank/modeling.py).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.pytorch_utils import Conv1D


class Columns:
    """One of `of` equal parts of what a Conv1D puts out; a module to those who call it, hook it, or read its weight."""

    def __init__(self, whole: Conv1D, part: int = 0, of: int = 1) -> None:
        self.whole, self.part, self.of = whole, part, of

    def __call__(self, x: Tensor) -> Tensor:
        """Shapes: x (..., in) -> (..., out)."""
        return self._mine(self.whole(x))

    @property
    def weight(self) -> Tensor:
        """(out, in), a view."""
        return self._mine(self.whole.weight).T

    @property
    def out_features(self) -> int:
        return self.whole.nf // self.of

    def register_forward_hook(self, hook: Callable) -> Any:
        """As a module's: hook(module, inputs, output), the output being this part's."""
        return self.whole.register_forward_hook(lambda module, args, out: hook(module, args, self._mine(out)))

    def _mine(self, x: Tensor) -> Tensor:
        return x.chunk(self.of, dim=-1)[self.part]
