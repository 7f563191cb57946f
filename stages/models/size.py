"""How large a model is: parameters, multiplications, bytes; and its name by its size."""

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stages.models.anatomy import ModelParts, unwrap_low_rank


def measure_size(model: PreTrainedModel, folder: Path, length: float) -> dict[str, float]:
    """Parameters (all; in the layers), bytes of the weights on disk, and multiply-accumulates per token.

    The last counts the matrices of the layers and attention's two products at the given mean length; embeddings are
    look-ups, and the head runs once a sentence.
    """
    parts = ModelParts(model)
    matrices = [m.weight for layer in parts.layers for m in layer.modules() if isinstance(m, nn.Linear | Conv1D)]
    return {
        "parameters": model.num_parameters(),
        "layer_parameters": parts.count_layer_parameters(),
        "macs_per_token": int(sum(w.numel() for w in matrices) + 2 * parts.depth * parts.config.hidden_size * length),
        "bytes": sum(f.stat().st_size for f in folder.glob("*.safetensors")),
    }


def name_by_size(model: PreTrainedModel) -> str:
    """Layers and width, such as 6x384 or 6x384-lowrank."""
    parts = ModelParts(model)
    return f"{parts.depth}x{parts.width}" + "-lowrank" * (unwrap_low_rank(model) is not model)
