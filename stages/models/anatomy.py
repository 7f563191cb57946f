"""The parts of a model, found by its family's row in families.py."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from stages.models.families import FAMILIES
from stages.settings import BadInput

if TYPE_CHECKING:
    from torch import nn

    from stages.models.columns import Columns


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What has to be known of two models to say whether and how they can be compared."""

    depth: int
    heads: int
    widths: dict[str, int]
    """Width of `hidden`, and of the outputs of `q`, `k`, `v`, `up`, `down`, and `gate` where there is one."""
    scores: Literal["dot", "maps"]
    """As in `Anatomy`."""
    causal: bool = False
    """Tokens look back only."""
    windows: dict[int, int] = field(default_factory=dict)
    """Layers, from 1, whose tokens look at so many tokens only, themselves included; the others look at all."""

    @property
    def key_heads(self) -> int:
        """Heads of keys and values: as wide as those of queries, and fewer where several queries share one."""
        return self.widths["k"] * self.heads // self.widths["q"]


class Parts:
    """The parts of one model, dense or low-rank, found by its family's row.

    Raises:
        BadInput: the family has no row.
    """

    def __init__(self, model: "nn.Module") -> None:
        dense = plain(model)
        family = dense.config.model_type
        if family not in FAMILIES:
            raise BadInput(
                f"base.model is of the family `{family}`, which has no row in FAMILIES of stages/models/families.py; "
                f"known are {', '.join(FAMILIES)}; add a row with the paths of its q, k, v, out, up, down"
            )
        self.anatomy = FAMILIES[family]
        self.config = dense.config
        self.backbone = dense.base_model
        prefix = next(name for name, module in model.named_modules() if module is self.backbone)
        self.layers = list(self.backbone.get_submodule(self.anatomy.layers))
        self.words = self.backbone.get_submodule(self.anatomy.words)
        self.backbone_at = prefix
        self.layers_at = f"{prefix}.{self.anatomy.layers}".lstrip(".")
        self.words_at = f"{prefix}.{self.anatomy.words}".lstrip(".")

    def require_outside(self) -> None:
        """Raises BadInput where the family's row does not say what a narrower model needs."""
        if not self.anatomy.outside:
            able = ", ".join(name for name, row in FAMILIES.items() if row.outside)
            raise BadInput(
                f"the family `{self.config.model_type}` cannot be narrowed (hidden_size, intermediate_size); "
                f"those that can are {able}"
            )

    @property
    def depth(self) -> int:
        return len(self.layers)

    @property
    def heads(self) -> int:
        """Of queries."""
        return self.config.num_attention_heads

    @cached_property
    def shape(self) -> Shape:
        widths = {name: _outputs(self.matrix(name, 1)) for name in self.anatomy.matrices if name != "out"}
        return Shape(
            depth=self.depth,
            heads=self.heads,
            widths=widths | {"hidden": widths["down"]},
            scores=self.anatomy.scores,
            causal=self.anatomy.causal,
            windows={i: size for i in range(1, self.depth + 1) if (size := self._window(i))},
        )

    def attention(self, layer: int) -> "nn.Module | None":
        """A decoder layer's attention, counted from 1."""
        return self.layers[layer - 1].get_submodule(self.anatomy.attention) if self.anatomy.attention else None

    @property
    def rotary(self) -> "nn.Module | None":
        """Gives (cos, sin), each (batch or 1, tokens, head width), of all layers."""
        return self.backbone.get_submodule(self.anatomy.rotary) if self.anatomy.rotary else None

    def _window(self, layer: int) -> int | None:
        attention = self.attention(layer)
        # Mistral's is one for all layers; Qwen's differs, and is None where the config's is not in use
        of = attention if hasattr(attention, "sliding_window") else self.config
        return getattr(of, "sliding_window", None) if attention is not None else None

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.config.hidden_size

    @property
    def neurons(self) -> int:
        """Inner width of a feed-forward."""
        return self.shape.widths["up"]

    def matrix(self, name: str, layer: int) -> "nn.Module | Columns":
        """A matrix (`q` … `down`) of a layer, counted from 1; of a dense GPT-2 a view of where it lies."""
        return _found(self.layers[layer - 1], self.anatomy.matrices[name])

    def matrix_parameters(self) -> int:
        """Weights of all matrices of a dense model, biases apart."""
        return sum(
            self.matrix(name, layer).weight.numel()
            for layer in range(1, self.depth + 1)
            for name in self.anatomy.matrices
        )

    def matrix_names(self) -> list[str]:
        """Full module names of all matrices, layer by layer, as `get_submodule` takes them (GPT-2: of `separate`)."""
        return [f"{self.layers_at}.{i}.{path}" for i in range(self.depth) for path in self.anatomy.matrices.values()]

    def layer_parameters(self) -> int:
        """Parameters of all Transformer layers, biases and norms included."""
        return sum(p.numel() for layer in self.layers for p in layer.parameters())


def plain(model: "nn.Module") -> "nn.Module":
    """The architecture itself: a low-rank model holds it under `base`."""
    return getattr(model, "base", model)


def _found(layer: "nn.Module", path: str) -> "nn.Module | Columns":
    from transformers.pytorch_utils import Conv1D

    from stages.models.columns import Columns

    parent, _, name = path.rpartition(".")
    if isinstance(fused := layer.get_submodule(parent), Conv1D):
        return Columns(fused, "qkv".index(name), of=3)
    matrix = layer.get_submodule(path)
    return Columns(matrix) if isinstance(matrix, Conv1D) else matrix


def _outputs(matrix: "nn.Module | Columns") -> int:
    return getattr(matrix, "A", matrix).out_features  # a low-rank one is A B
