"""Tiny random decoders of every family, and batches for them."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from stages.lowrank.budget import matrix_budget
from stages.lowrank.factorization import factorize_model
from stages.models.modeling import LowRankLinear, replace_conv1d
from stages.pruning.cut import cut_to_plan
from stages.pruning.plan import plan_from_budget
from stages.settings import Factorize

FAMILIES = ["gpt2", "llama", "mistral", "qwen2", "qwen3"]


def make_decoder(family: str, layers: int = 2, **changes: Any) -> PreTrainedModel:
    """A random decoder of width 16, four heads; two of keys and values where the family groups its queries."""
    common: dict[str, Any] = {
        "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 4,
        "max_position_embeddings": 64, "initializer_range": 0.3, "tie_word_embeddings": True, "bos_token_id": 1,
        "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    if family == "gpt2":
        common["n_inner"] = 40
    else:
        common |= {"intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 4}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **common | changes)).eval()
    with torch.no_grad():  # norms and biases that matter
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def make_causal_batch(side: str = "right", words: int = 9) -> dict[str, Tensor]:
    """Three random texts, the second and third padded on that side; labels as causal batches have them."""
    torch.manual_seed(1)
    mask = torch.ones(3, words, dtype=torch.long)
    mask[1, 6:], mask[2, 4:] = 0, 0
    mask = mask.flip(1) if side == "left" else mask
    ids = torch.randint(5, 50, (3, words)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def factorize_decoder(model: PreTrainedModel, **changes: Any) -> PreTrainedModel:
    """A decoder's low-rank copy at half of its layer parameters."""
    settings = Factorize.model_validate({"budget": 0.5, "multiple_of": 1} | changes)
    start = cut_to_plan(model, plan_from_budget(settings, model))
    return factorize_model(settings, start, matrix_budget(settings, model, start), [make_causal_batch()]).model


def read_token_logits(model: PreTrainedModel, side: str = "right") -> Tensor:
    """Logits at the real tokens of `make_causal_batch(side)`."""
    inputs = {name: tensor for name, tensor in make_causal_batch(side).items() if name != "labels"}
    with torch.no_grad():
        return model(**inputs).logits[inputs["attention_mask"].bool()]


def multiply_factors(student: PreTrainedModel) -> PreTrainedModel:
    """The dense model that a low-rank one stands for, its factors multiplied; GPT-2 without Conv1D."""
    dense = replace_conv1d(AutoModelForCausalLM.from_config(AutoConfig.for_model(**student.config.base_config)))
    weights = {name.removeprefix("base."): value for name, value in student.state_dict().items()}
    for name, module in student.base.named_modules():
        if isinstance(module, LowRankLinear):
            a, b = weights.pop(f"{name}.A.weight"), weights.pop(f"{name}.B.weight")
            weights[f"{name}.weight"] = (a.double() @ b.double()).float()
            if module.A.bias is not None:
                weights[f"{name}.bias"] = weights.pop(f"{name}.A.bias")
    dense.load_state_dict(weights, strict=True)
    return dense.eval()
