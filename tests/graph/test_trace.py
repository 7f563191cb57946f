"""Tracing of classifiers: for every family the graph is the model; what cannot be traced is named."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from stages.errors import BadInput
from stages.graph.rewrite import rewrite_graph
from stages.graph.trace import trace_classifier

SHAPE = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "initializer_range": 0.5,
}
FAMILIES = {
    "roberta": {**SHAPE, "pad_token_id": 1},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, **SHAPE},
    "electra": {**SHAPE, "embedding_size": 8},
    "deberta-v2": {
        **SHAPE,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
    },
}


def make_batch(names: list[str], shape: tuple[int, int], padding: int) -> dict[str, torch.Tensor]:
    """Random tokens, the second row padded by one, the third by two and so on."""
    batch = {name: torch.zeros(shape, dtype=torch.int64) for name in names}
    batch["input_ids"] = torch.randint(5, 100, shape)
    batch["attention_mask"] += 1
    for row in range(1, shape[0]):
        batch["attention_mask"][row, -row:] = 0
        batch["input_ids"][row, -row:] = padding
    return batch


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_have_pytorchs_logits(family: str, tmp_path: Path) -> None:
    """Random models with large weights, at many shapes, traced and rewritten."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    model = AutoModelForSequenceClassification.from_config(config).eval()
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (family == "electra")
    trace_classifier(model, names, tmp_path / "model.onnx")
    sessions = [onnxruntime.InferenceSession(tmp_path / "model.onnx")]
    rewrite_graph(tmp_path / "model.onnx")
    sessions.append(onnxruntime.InferenceSession(tmp_path / "model.onnx"))
    seen = []
    for shape in [(1, 2), (1, 38), (3, 17), (5, 9)]:
        batch = make_batch(names, shape, config.pad_token_id)
        with torch.inference_mode():
            expected = model(**batch).logits.numpy()
        for session in sessions:
            logits = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]
            np.testing.assert_allclose(logits, expected, atol=1e-4)
        seen.append(expected)
    assert np.concatenate(seen).std() > 0.1


def test_an_unknown_architecture_is_named() -> None:
    class Strange(torch.nn.Module):
        config = type("Config", (), {"model_type": "strange", "max_position_embeddings": 40})

        def set_attn_implementation(self, name: str) -> None: ...

        def forward(self, input_ids):
            return type("Out", (), {"logits": torch.tensor([float(input_ids.sum().item())])})

    with pytest.raises(BadInput, match="cannot take strange at opset 23"):
        trace_classifier(Strange(), ["input_ids"], Path("never.onnx"))
