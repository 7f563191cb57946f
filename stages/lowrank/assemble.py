"""From a dense model and factors to the low-rank model."""

import copy

import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.models.modeling import FORMS, LowRankConfig, LowRankModel, replace_conv1d


def assemble_low_rank(
    base: PreTrainedModel,
    factors: dict[str, tuple[Tensor, Tensor]],
    shifts: dict[str, Tensor] | None = None,
) -> LowRankModel:
    """A low-rank copy of a dense model.

    Args:
        base: the dense model; left as it is.
        factors: module name in `replace_conv1d(base)` -> (A, B) with shapes (out, r) and (r, in).
        shifts: module name -> what is added to its bias, (out,).
    """
    base = replace_conv1d(base)
    ranks = {f"base.{name}": len(b) for name, (_, b) in factors.items()}
    base_config = {name: value for name, value in base.config.to_dict().items() if name != "_name_or_path"}
    model = _form_of(base)(LowRankConfig(base_config, ranks))
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
    model.config.auto_map = {name: f"modeling.{form.__name__}" for name, form in FORMS.items()}
    if model.can_generate():
        model.generation_config = copy.deepcopy(base.generation_config)
    return model.eval()


def _form_of(base: PreTrainedModel) -> type[LowRankModel]:
    """The low-rank class of this model's form."""
    classes = {name: getattr(transformers, name)._model_mapping.get(type(base.config), None) for name in FORMS}
    return next(FORMS[name] for name, kind in classes.items() if type(base) is kind)
