"""The parts of a model, located by its family's row in families.py."""

from torch import nn
from transformers.pytorch_utils import Conv1D

from stages.errors import BadInput
from stages.models.conv1d_views import Conv1DView
from stages.models.families import FAMILIES


class ModelParts:
    """The parts of one model, dense or low-rank, located by its family's row.

    Raises:
        BadInput: the family has no row.
    """

    def __init__(self, model: nn.Module) -> None:
        dense = unwrap_low_rank(model)
        family = dense.config.model_type
        if family not in FAMILIES:
            raise BadInput(
                f"base.model is of the family `{family}`, which has no row in FAMILIES of stages/models/families.py; "
                f"known are {', '.join(FAMILIES)}; add a row with the paths of its q, k, v, out, up, down"
            )
        self.anatomy = FAMILIES[family]
        self.config = dense.config
        self.backbone: nn.Module = dense.base_model
        prefix = next(name for name, module in model.named_modules() if module is self.backbone)
        self.layers: list[nn.Module] = list(self.backbone.get_submodule(self.anatomy.layers).children())
        self.word_embedding = self.backbone.get_submodule(self.anatomy.word_embedding)
        self.backbone_path = prefix
        self.layers_path = f"{prefix}.{self.anatomy.layers}".lstrip(".")
        self.word_embedding_path = f"{prefix}.{self.anatomy.word_embedding}".lstrip(".")

    def require_narrowable(self) -> None:
        """Raises BadInput where the family's row does not say what a narrower model needs."""
        if not self.anatomy.outer_weights:
            able = ", ".join(name for name, row in FAMILIES.items() if row.outer_weights)
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

    def count_outputs(self, name: str) -> int:
        """The output width of one of the matrices, low rank or not."""
        matrix = self.get_matrix(name, 1)
        return getattr(matrix, "A", matrix).out_features  # a low-rank one is A B

    def get_attention(self, layer: int) -> nn.Module | None:
        """A decoder layer's attention, counted from 1."""
        return self.layers[layer - 1].get_submodule(self.anatomy.attention) if self.anatomy.attention else None

    @property
    def rotary(self) -> nn.Module | None:
        """Returns (cos, sin), each (batch or 1, tokens, head width), of all layers."""
        return self.backbone.get_submodule(self.anatomy.rotary) if self.anatomy.rotary else None

    def get_window_size(self, layer: int) -> int | None:
        """How many tokens each token of the layer attends to, itself included; None: all."""
        attention = self.get_attention(layer)
        if attention is None:
            return None
        # Mistral's is one for all layers; Qwen's differs, and is None where the config's is not in use
        owner = attention if hasattr(attention, "sliding_window") else self.config
        return getattr(owner, "sliding_window", None)

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.config.hidden_size

    @property
    def neurons(self) -> int:
        """Inner width of a feed-forward."""
        return self.count_outputs("up")

    def get_matrix(self, name: str, layer: int) -> nn.Module | Conv1DView:
        """A matrix (`q` … `down`) of a layer, counted from 1; of a dense GPT-2 a view."""
        layer_module, path = self.layers[layer - 1], self.anatomy.matrices[name]
        parent, _, part = path.rpartition(".")
        if isinstance(fused := layer_module.get_submodule(parent), Conv1D):
            return Conv1DView(fused, "qkv".index(part), parts=3)
        matrix = layer_module.get_submodule(path)
        return Conv1DView(matrix) if isinstance(matrix, Conv1D) else matrix

    def count_matrix_parameters(self) -> int:
        """Weights of all matrices of a dense model, biases apart."""
        return sum(
            self.get_matrix(name, layer).weight.numel()
            for layer in range(1, self.depth + 1)
            for name in self.anatomy.matrices
        )

    def list_matrix_names(self) -> list[str]:
        """Full module names of all matrices, layer by layer, as `get_submodule` takes them (GPT-2: of
        `replace_conv1d`).
        """
        paths = self.anatomy.matrices.values()
        return [f"{self.layers_path}.{i}.{path}" for i in range(self.depth) for path in paths]

    def count_layer_parameters(self) -> int:
        """Parameters of all Transformer layers, biases and norms included."""
        return sum(p.numel() for layer in self.layers for p in layer.parameters())


def unwrap_low_rank(model: nn.Module) -> nn.Module:
    """The base architecture, which a low-rank model holds under `base`; any other model itself."""
    return model._modules.get("base") or model
