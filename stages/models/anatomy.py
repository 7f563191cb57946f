"""Where each family keeps its parts: the one place that knows module names.

To add a family: a row in `FAMILIES` under its `config.model_type`, paths as `print(model)` shows them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from stages.settings import BadInput

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Paths of one family's parts; those in a layer start at the layer."""

    layers: str
    """The list of Transformer layers, from the backbone (`model.base_model`) on."""
    words: str
    """The word embedding, from the backbone on."""
    q: str
    k: str
    v: str
    out: str
    """Attention's output matrix."""
    up: str
    down: str
    scores: Literal["dot", "maps"] = "dot"
    """`dot`: scores are QKᵀ/√d, so they can be had beside fused attention. `maps`: they hold more than that (relative
    positions), so the model's own attention maps are asked for."""

    @property
    def matrices(self) -> dict[str, str]:
        """Name -> path of the six matrices of a layer."""
        return {name: getattr(self, name) for name in ("q", "k", "v", "out", "up", "down")}


_BERT = Anatomy(
    layers="encoder.layer",
    words="embeddings.word_embeddings",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    out="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
)
_DEBERTA = Anatomy(
    layers="encoder.layer",
    words="embeddings.word_embeddings",
    q="attention.self.query_proj",
    k="attention.self.key_proj",
    v="attention.self.value_proj",
    out="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    scores="maps",
)
_DISTILBERT = Anatomy(
    layers="transformer.layer",
    words="embeddings.word_embeddings",
    q="attention.q_lin",
    k="attention.k_lin",
    v="attention.v_lin",
    out="attention.out_lin",
    up="ffn.lin1",
    down="ffn.lin2",
)

FAMILIES: dict[str, Anatomy] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "distilbert": _DISTILBERT,
    "deberta-v2": _DEBERTA,
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What has to be known of two models to say whether and how they can be compared."""

    depth: int
    heads: int
    widths: dict[str, int]
    """Width of `hidden`, and of the outputs of `q`, `k`, `v`, `up`, `down`."""
    scores: Literal["dot", "maps"]
    """As in `Anatomy`."""


class Parts:
    """The parts of one model, dense or low-rank, found by its family's row.

    Raises:
        BadInput: the family has no row.
    """

    def __init__(self, model: "nn.Module") -> None:
        dense = getattr(model, "base", model)  # a low-rank model holds its base architecture under `base`
        family = dense.config.model_type
        if family not in FAMILIES:
            raise BadInput(
                f"base.model is of the family `{family}`, which has no row in FAMILIES of stages/models/anatomy.py; "
                f"known are {', '.join(FAMILIES)}; add a row with the paths of its q, k, v, out, up, down"
            )
        self.anatomy = FAMILIES[family]
        self.config = dense.config
        backbone = dense.base_model
        prefix = next(name for name, module in model.named_modules() if module is backbone)
        self.layers = list(backbone.get_submodule(self.anatomy.layers))
        self.words = backbone.get_submodule(self.anatomy.words)
        self._layers_at = f"{prefix}.{self.anatomy.layers}".lstrip(".")
        self.words_at = f"{prefix}.{self.anatomy.words}".lstrip(".")

    @property
    def depth(self) -> int:
        return len(self.layers)

    @property
    def heads(self) -> int:
        return self.config.num_attention_heads

    @cached_property
    def shape(self) -> Shape:
        widths = {name: _outputs(self.matrix(name, 1)) for name in ("q", "k", "v", "up", "down")}
        widths["hidden"] = widths["down"]
        return Shape(depth=self.depth, heads=self.heads, widths=widths, scores=self.anatomy.scores)

    def matrix(self, name: str, layer: int) -> "nn.Module":
        """A matrix (`q` … `down`) of a layer, counted from 1."""
        return self.layers[layer - 1].get_submodule(self.anatomy.matrices[name])

    def matrix_names(self) -> list[str]:
        """Full module names of all matrices, layer by layer, as `model.get_submodule` takes them."""
        return [f"{self._layers_at}.{i}.{path}" for i in range(self.depth) for path in self.anatomy.matrices.values()]

    def layer_parameters(self) -> int:
        """Parameters of all Transformer layers, biases and norms included."""
        return sum(p.numel() for layer in self.layers for p in layer.parameters())


def _outputs(matrix: "nn.Module") -> int:
    return getattr(matrix, "A", matrix).out_features  # a low-rank one is A B
