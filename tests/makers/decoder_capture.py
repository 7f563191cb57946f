"""What decoders compute inside: captured by stages.distillation, and taken from the library to compare with."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from stages.distillation.capture import Capture, CapturedOutputs
from stages.models.anatomy import ModelParts
from stages.objectives import Objective
from stages.objectives.inputs import Batch, Side
from tests.makers.decoders import FAMILIES, make_causal_batch

CASES: dict[str, tuple[str, dict[str, Any]]] = {family: (family, {}) for family in FAMILIES} | {
    "gpt2 scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2 unscaled": ("gpt2", {"scale_attn_weights": False}),
    "llama with longer contexts": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
    ),
    "llama with narrow heads": ("llama", {"head_dim": 2}),
    "mistral with a window": ("mistral", {"sliding_window": 3}),
    "qwen2 with a window above": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1},
    ),
    "qwen3 of one key head": ("qwen3", {"num_key_value_heads": 1}),
}
"""Families and what is special about a config: for `make_decoder`."""
NO_WINDOW = 99


def make_inputs(side: str) -> dict[str, Tensor]:
    """Texts padded on that side, without labels."""
    return {name: tensor for name, tensor in make_causal_batch(side).items() if name != "labels"}


def describe_causal_batch(side: str, predicted: Tensor | None = None) -> Batch:
    """What the objectives know of these texts."""
    mask = make_causal_batch(side)["attention_mask"].float()
    return Batch(mask=mask, labels=torch.zeros(3), predicted=predicted)


def capture_aspects(
    model: PreTrainedModel, term: Objective, padding: str = "right", side: Side = "teacher"
) -> CapturedOutputs:
    """What the term needs of a model, at every layer."""
    depth = ModelParts(model).depth
    aspects = {(name, layer) for name in term.captured_aspects(side) for layer in range(1, depth + 1)}
    capture = Capture(model, aspects)
    captured = capture(model, make_inputs(padding), aspects)
    capture.close()
    return captured


def compute_term(term: Objective, student: PreTrainedModel, teacher: PreTrainedModel, padding: str = "right") -> Tensor:
    """The objective's value, as the trainer computes it."""
    with torch.inference_mode():
        theirs = capture_aspects(teacher.requires_grad_(False), term, padding)
    return term(capture_aspects(student, term, padding, "student"), theirs, describe_causal_batch(padding))


def perturb(model: PreTrainedModel, size: float = 0.1) -> PreTrainedModel:
    """A copy with somewhat other weights."""
    other = copy.deepcopy(model).requires_grad_(True)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(size * torch.randn_like(weight))
    return other


def record_library_scores(model: PreTrainedModel, padding: str) -> list[Tensor]:
    """Every layer's scores before the mask, (batch, heads, tokens, tokens), as an attention function is given them."""
    scores = []

    def spy(module, query, key, value, mask, scaling, **others):
        k, v = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        scores.append(query @ k.transpose(2, 3) * scaling)
        weights = (scores[-1] + mask).softmax(-1)
        return (weights @ v).transpose(1, 2), weights

    AttentionInterface.register("spy", spy)
    AttentionMaskInterface.register("spy", eager_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("spy")
    with torch.no_grad():
        model(**make_inputs(padding))
    model.set_attn_implementation(before)
    return scores


def list_queries(padding: str, window: int = NO_WINDOW) -> Iterator[tuple[int, int, list[int]]]:
    """(example, query, keys that it may attend to) of every real token."""
    mask = make_causal_batch(padding)["attention_mask"].bool()
    for b, real in enumerate(mask):
        for i in real.nonzero()[:, 0].tolist():
            yield b, i, [j for j in range(max(0, i - window + 1), i + 1) if real[j]]


def average_queries(
    student: list[Tensor],
    teacher: list[Tensor],
    padding: str,
    distance: Callable[[np.ndarray, np.ndarray], Any],
    *,
    window: int = NO_WINDOW,
    pairs: bool = False,
    predicted: Tensor | None = None,
) -> float:
    """Mean over layers and examples of the mean over heads and queries (or pairs) of distance(teacher's, student's).

    Of all real queries, or of those whose next token is predicted.
    """
    layers = []
    for s, t in zip(student, teacher, strict=True):
        examples: dict[int, list[float]] = {}
        for b, i, keys in list_queries(padding, window):
            for h in range(s.shape[1] if predicted is None or predicted[b, i] else 0):
                value = distance(t[b, h, i, keys].double().numpy(), s[b, h, i, keys].double().numpy())
                examples.setdefault(b, []).extend(value if pairs else [value])
        layers.append(np.mean([np.mean(values) for values in examples.values()]))
    return float(np.mean(layers))


def list_squares(teacher: np.ndarray, student: np.ndarray) -> list[float]:
    """Squared differences, pair by pair."""
    return list((teacher - student) ** 2)
