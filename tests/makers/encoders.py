"""Tiny random encoders of every family, and batches for them."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

FAMILIES = ["bert", "roberta", "xlm-roberta", "electra", "distilbert"]
"""Families that can be narrowed."""


def make_encoder(family: str, **changes: Any) -> PreTrainedModel:
    """A random classifier of a family, two layers, width 16."""
    common: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "distilbert":
        common = {"vocab_size": 50, "dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 4}
    if family == "electra":
        common["embedding_size"] = 16
    if family == "deberta-v2":
        common |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
    if family != "distilbert":
        common["intermediate_size"] = 32
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **common | changes)
    return AutoModelForSequenceClassification.from_config(config).eval()


def make_teacher(family: str, layers: int = 6, width: int = 32, neurons: int = 64, **changes: Any) -> PreTrainedModel:
    """A random classifier of four heads, its weights large enough for its parts to matter."""
    shape = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": neurons}
    if family == "distilbert":
        shape = {"n_layers": layers, "dim": width, "hidden_dim": neurons}
    if family == "electra":
        shape["embedding_size"] = 7
    return make_encoder(family, **{"initializer_range": 0.3, "max_position_embeddings": 40} | shape | changes)


def make_batch(rows: int = 3, words: int = 9) -> dict[str, Tensor]:
    """Random sentences, the second and third padded."""
    torch.manual_seed(1)
    mask = torch.ones(rows, words, dtype=torch.long)
    mask[1, 6:], mask[2, 4:] = 0, 0
    return {"input_ids": torch.randint(5, 50, (rows, words)), "attention_mask": mask}


def read_logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Logits of the sentences; of a language model those of the real tokens."""
    with torch.inference_mode():
        logits = model(**batch).logits
    return logits[batch["attention_mask"].bool()] if logits.ndim == 3 else logits
