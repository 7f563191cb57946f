"""The low-rank model: any Transformers architecture with some of its matrices as products of two thin ones.

This file is saved beside the weights, so that `from_pretrained(..., trust_remote_code=True)` loads the model anywhere;
it imports nothing but torch and transformers. The model has a type of its own: saved under the base architecture's
type, its factors would be skipped and random matrices put in their place, with no error.
"""

import copy

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, Cache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D


class LowRankLinear(nn.Module):
    """y = A (B x) + b: a linear map of rank r in r·(in + out) parameters instead of in·out.

    Shapes: A (out, r), B (r, in), b (out,); x (..., in) -> y (..., out).
    """

    def __init__(self, *, inputs: int, outputs: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.B = nn.Linear(inputs, rank, bias=False)
        self.A = nn.Linear(rank, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.A(self.B(x))


class LowRankEmbedding(nn.Module):
    """Row i of E ≈ A B: a word embedding of rank r in r·(words + width) parameters.

    Shapes: A (words, r), B (r, width); ids (...) -> (..., width).
    """

    def __init__(self, *, words: int, width: int, rank: int, padding_idx: int | None) -> None:
        super().__init__()
        self.A = nn.Embedding(words, rank, padding_idx=padding_idx)
        self.B = nn.Linear(rank, width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.B(self.A(ids))


class SplitQKV(nn.Module):
    """GPT-2's `c_attn` as three maps; x (..., in) -> q, k, v side by side (..., 3 · out)."""

    def __init__(self, q: nn.Linear, k: nn.Linear, v: nn.Linear) -> None:
        super().__init__()
        self.q, self.k, self.v = q, k, v

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.q(x), self.k(x), self.v(x)), dim=-1)


def replace_conv1d(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a GPT-2 with linear modules in place of its Conv1D; any other model as it is."""
    if not any(isinstance(module, Conv1D) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            parts = 3 if name.endswith("c_attn") else 1
            linears = [
                _to_linear(*pair) for pair in zip(*(p.chunk(parts, -1) for p in module.parameters()), strict=True)
            ]
            model.set_submodule(name, SplitQKV(*linears) if parts == 3 else linears[0])
    return model


def _to_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Shapes: weight (in, out), bias (out,)."""
    linear = nn.Linear(*weight.shape, device="meta")
    linear.weight, linear.bias = (nn.Parameter(p.detach().clone(), p.requires_grad) for p in (weight.T, bias))
    return linear


class LowRankConfig(PretrainedConfig):
    """The whole architecture: the base model's config and the rank of every factorized module."""

    model_type = "makd_lowrank"

    def __init__(
        self,
        base_config: dict | None = None,
        ranks: dict[str, int] | None = None,
        **kwargs,
    ) -> None:
        self.base_config = base_config or {}
        self.ranks = ranks or {}
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "problem_type", "id2label", "label2id"):
            if name in self.base_config:
                kwargs.setdefault(name, self.base_config[name])
        super().__init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PretrainedConfig:
        """The base model's: `generate` builds its cache by it."""
        return AutoConfig.for_model(**self.base_config) if self.base_config else self


class LowRankModel(PreTrainedModel):
    """Holds the base architecture under `base`, its factorized modules replaced by pairs of thin ones.

    Each subclass is one form (classifier, masked or causal LM), loaded by the Auto class of its base architecture.
    """

    auto_class: str
    """Name of the Auto class of the base architecture."""
    config_class = LowRankConfig
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: LowRankConfig) -> None:
        super().__init__(config)
        base_config = AutoConfig.for_model(**config.base_config | _head_settings(config))
        # the base picks its own best attention; only a request for eager attention is passed on
        eager = {"attn_implementation": "eager"} if config._attn_implementation == "eager" else {}
        self.base = replace_conv1d(getattr(transformers, self.auto_class).from_config(base_config, **eager))
        for name, rank in config.ranks.items():
            parent, _, child = name.removeprefix("base.").rpartition(".")
            owner = self.base.get_submodule(parent)
            setattr(owner, child, make_low_rank(getattr(owner, child), rank))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if not any(module.children()):  # GPT-2 would look for the weights of a layer's factorized matrices
            self.base._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.base.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        return self.base.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ):
        return self._forward_base(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )

    def _forward_base(self, input_ids: Tensor | None, **given):
        return self.base(input_ids, **{name: value for name, value in given.items() if value is not None})


class LowRankForSequenceClassification(LowRankModel):
    """A low-rank classifier."""

    auto_class = "AutoModelForSequenceClassification"


class LowRankForMaskedLM(LowRankModel):
    """A low-rank masked language model; as a classifier it loads with a fresh head."""

    auto_class = "AutoModelForMaskedLM"


class LowRankForCausalLM(LowRankModel, GenerationMixin):
    """A low-rank decoder: `generate` works as on the base model, with its cache."""

    auto_class = "AutoModelForCausalLM"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ):
        return self._forward_base(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )


FORMS = {form.auto_class: form for form in (LowRankForSequenceClassification, LowRankForMaskedLM, LowRankForCausalLM)}
"""Name of the Auto class of the base architecture -> its low-rank form."""


def make_low_rank(module: nn.Module, rank: int) -> nn.Module:
    """A low-rank module of the same inputs and outputs, its weights not yet set."""
    if isinstance(module, nn.Embedding):
        words, width = module.weight.shape
        return LowRankEmbedding(words=words, width=width, rank=rank, padding_idx=module.padding_idx)
    outputs, inputs = module.weight.shape
    return LowRankLinear(inputs=inputs, outputs=outputs, rank=rank, bias=module.bias is not None)


def _head_settings(config: LowRankConfig) -> dict:
    """The task's settings of the head."""
    return {name: getattr(config, name) for name in ("id2label", "label2id", "problem_type")}


AutoConfig.register(LowRankConfig.model_type, LowRankConfig, exist_ok=True)
LowRankConfig.register_for_auto_class()
for _auto_class, _form in FORMS.items():
    getattr(transformers, _auto_class).register(LowRankConfig, _form, exist_ok=True)
    _form.register_for_auto_class(_auto_class)
