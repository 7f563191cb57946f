"""What an objective is given: the shapes of both models, what was captured of each on a batch, and the batch.

Capturing is `stages.distillation.capture`'s work; objectives know no more of it than stands here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

Side = Literal["student", "teacher"]
Aspect = tuple[str, int]
"""A name and a layer number, from 1. `hidden`: the layer's output (of layer 0: the embeddings); `q` … `down`: a
matrix's output; `input.q`: its input; `attention`: what its attention scores need beside `q` and `k`: the map itself
where they are not plainly QKᵀ/√d, the angles of the tokens' positions (kept as of layer 0) where those turn q and k."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What has to be known of two models to say whether and how they can be compared."""

    depth: int
    heads: int
    widths: dict[str, int]
    """Width of `hidden`, and of the outputs of `q`, `k`, `v`, `up`, `down`, and `gate` where there is one."""
    scores: Literal["dot", "maps"]
    """`dot`: attention scores are QKᵀ/√d. `maps`: they hold more than that (relative positions)."""
    causal: bool = False
    """Tokens attend to earlier ones only."""
    windows: dict[int, int] = field(default_factory=dict)
    """Layers, from 1, with sliding-window attention, and the number of tokens each of theirs attends to, itself
    included; the others attend to all."""

    @property
    def key_heads(self) -> int:
        """Heads of keys and values: as wide as those of queries, and fewer where several queries share one."""
        return self.widths["k"] * self.heads // self.widths["q"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the objectives know of a batch."""

    mask: Tensor
    """1 for real tokens, 0 for padding; (batch, tokens), float32."""
    labels: Tensor
    """(batch,), or one for each row of the logits."""
    predicted: Tensor | None = None
    """Positions whose next token a causal model predicts, (batch, tokens), bool; None: no such model."""
    rows: Tensor | None = None
    """The example that each row of the logits belongs to, (rows,); None: each example has one."""
    layers: Collection[int] | None = None
    """The student's layers that are compared in this step; None means all."""
    progress: float = 0.0
    """Share of the training that is done."""
    index: Tensor | None = None
    """Index of each example in the training split, (batch,); for objectives with a memory bank."""

    def compares_layer(self, layer: int) -> bool:
        """Whether this student layer (0: the embeddings) is compared in this step."""
        return self.layers is None or layer == 0 or layer in self.layers

    def mean_over_examples(self, values: Tensor) -> Tensor:
        """The mean over examples of a value for each row of the logits, (rows,): first over an example's own rows."""
        if self.rows is None:
            return values.mean()
        counts = values.new_zeros(len(self.mask)).index_add_(0, self.rows, values.new_ones(len(values)))
        return (values / counts[self.rows]).sum() / len(self.mask)

    @property
    def counted(self) -> Tensor:
        """1 for the positions whose inner states are compared, (batch, tokens): those predicted, else all real ones."""
        return self.mask if self.predicted is None else self.predicted.to(self.mask.dtype)


class Captured(Protocol):
    """One model's output on one batch, by aspect: `captured["hidden", 3]`."""

    @property
    def logits(self) -> Tensor:
        """(rows, classes)"""

    @property
    def shape(self) -> Shape: ...

    def __getitem__(self, aspect: Aspect) -> Tensor:
        """(batch, tokens, width of the aspect)"""

    def attention_scores(self, layer: int, batch: Batch | None = None) -> Tensor:
        """Before the softmax, (batch, heads, tokens, tokens); given the batch, masked pairs have the lowest value."""

    def visible_keys(self, layer: int, batch: Batch) -> Tensor:
        """1 where a query of the layer may attend to a key; (batch, 1 or tokens, tokens)."""

    def replay(self, name: str, pair: tuple[int, int], other: Captured) -> Tensor:
        """This model's matrix (layer `pair[0]`) times the other's input (`pair[1]`); (batch, tokens, out)."""
