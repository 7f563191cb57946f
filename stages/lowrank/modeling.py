"""The low-rank model: any Transformers architecture with some of its matrices as products of two thin ones.

This file travels with the weights, so that `from_pretrained(..., trust_remote_code=True)` loads the model anywhere;
it imports nothing but torch and transformers. The model has a type of its own: saved under the base architecture's
type, its factors would be skipped and random matrices put in their place, with no error.
"""

import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel


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
        for name in ("pad_token_id", "problem_type", "id2label", "label2id"):
            if name in self.base_config:
                kwargs.setdefault(name, self.base_config[name])
        super().__init__(**kwargs)


class LowRankModel(PreTrainedModel):
    """Holds the base architecture under `base`, its factorized modules exchanged for thin pairs; a classifier's."""

    made_by = "AutoModelForSequenceClassification"
    """The Auto class that makes the base architecture, and loads this."""
    config_class = LowRankConfig
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: LowRankConfig) -> None:
        super().__init__(config)
        base_config = AutoConfig.for_model(**config.base_config | _labels(config))
        # the base picks its own best attention; only a request for the plain one is passed on
        plain = {"attn_implementation": "eager"} if config._attn_implementation == "eager" else {}
        self.base = getattr(transformers, self.made_by).from_config(base_config, **plain)
        for name, rank in config.ranks.items():
            parent, _, child = name.removeprefix("base.").rpartition(".")
            owner = self.base.get_submodule(parent)
            setattr(owner, child, thin(getattr(owner, child), rank))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        self.base._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.base.get_input_embeddings()

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
        given = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "labels": labels,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }
        return self.base(input_ids, **{name: value for name, value in given.items() if value is not None})


class LowRankForMaskedLM(LowRankModel):
    """The same of a masked language model; as a classifier it loads with a fresh head."""

    made_by = "AutoModelForMaskedLM"


KINDS = {kind.made_by: kind for kind in (LowRankModel, LowRankForMaskedLM)}


def thin(module: nn.Module, rank: int) -> nn.Module:
    """A low-rank module of the same inputs and outputs, its weights not yet set."""
    if isinstance(module, nn.Embedding):
        words, width = module.weight.shape
        return LowRankEmbedding(words=words, width=width, rank=rank, padding_idx=module.padding_idx)
    outputs, inputs = module.weight.shape
    return LowRankLinear(inputs=inputs, outputs=outputs, rank=rank, bias=module.bias is not None)


def assemble(
    base: PreTrainedModel,
    factors: dict[str, tuple[Tensor, Tensor]],
    shifts: dict[str, Tensor] | None = None,
) -> LowRankModel:
    """A low-rank copy of a dense model.

    Args:
        base: the dense model; left as it is.
        factors: module name in `base` -> (A, B) with shapes (out, r) and (r, in).
        shifts: module name -> what is added to its bias, (out,).
    """
    ranks = {f"base.{name}": len(b) for name, (_, b) in factors.items()}
    described = {name: value for name, value in base.config.to_dict().items() if name != "_name_or_path"}
    model = _kind_of(base)(LowRankConfig(described, ranks))
    weights = {f"base.{name}": value for name, value in base.state_dict().items()}
    for name, (a, b) in factors.items():
        if isinstance(base.get_submodule(name), nn.Embedding):
            b = b.T  # an embedding's second factor is applied as a linear map, whose weight is (out, in)
        weights[f"base.{name}.A.weight"], weights[f"base.{name}.B.weight"] = a, b.contiguous()
        if (bias := weights.pop(f"base.{name}.bias", None)) is not None:
            weights[f"base.{name}.A.bias"] = bias + (shifts or {}).get(name, 0)
        del weights[f"base.{name}.weight"]
    model.load_state_dict(weights, strict=True)
    model.config.architectures = [type(model).__name__]
    model.config.auto_map = {name: f"modeling.{kind.__name__}" for name, kind in KINDS.items()}
    return model.eval()


def _kind_of(base: PreTrainedModel) -> type[LowRankModel]:
    """The low-rank class for this model's task."""
    made = {name: getattr(transformers, name)._model_mapping.get(type(base.config), None) for name in KINDS}
    return next(KINDS[name] for name, kind in made.items() if type(base) is kind)


def _labels(config: LowRankConfig) -> dict:
    """What the task says of the head."""
    return {name: getattr(config, name) for name in ("id2label", "label2id", "problem_type")}


AutoConfig.register(LowRankConfig.model_type, LowRankConfig, exist_ok=True)
LowRankConfig.register_for_auto_class()
for _name, _kind in KINDS.items():
    getattr(transformers, _name).register(LowRankConfig, _kind, exist_ok=True)
    _kind.register_for_auto_class(_name)
