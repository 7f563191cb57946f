"""Models as classifiers and as causal language models; checkpoints that stages saved.

The masked-LM form is in masked_lm.py.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from stages.errors import BadInput
from stages.models import modeling  # registers the low-rank model type
from stages.models.pretrained import load_from_hub
from stages.settings import Base


def load_classifier(
    base: Base, labels: Sequence[str], *, setting: str = "base.model", complete: bool = False
) -> PreTrainedModel:
    """The base model with a fresh head for these labels; without labels one output, trained as a regression.

    Args:
        complete: with the checkpoint's own head, which must be for these labels.

    Raises:
        BadInput: it cannot be loaded; or has no head of its own, or one for other labels.
    """
    names = dict(enumerate(labels)) or {0: "value"}
    if complete:
        config = load_from_hub(AutoConfig.from_pretrained, base, setting=setting)
        _require_labels(base, labels, config.id2label, setting)
    model, report = load_from_hub(
        AutoModelForSequenceClassification.from_pretrained,
        base,
        setting=setting,
        output_loading_info=True,
        num_labels=len(names),
        id2label=names,
        label2id={name: i for i, name in names.items()},
        problem_type="single_label_classification" if labels else "regression",
    )
    if complete:
        _require_complete(base, report, setting)
    return model


def load_causal_lm(base: Base, *, setting: str = "base.model", **options: Any) -> PreTrainedModel:
    """The base model as a causal language model.

    Raises:
        BadInput: it cannot be loaded as one, lacks weights, or attends to the tokens that it is to predict.
    """
    loader = AutoModelForCausalLM.from_pretrained
    try:
        model, report = load_from_hub(loader, base, setting=setting, output_loading_info=True, **options)
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{setting} {base.model} has no causal form; give a model such as GPT-2 or Llama") from error
    _require_complete(base, report, setting)
    ids = torch.tensor([[0, 1, 0], [0, 1, 1]])  # the last token differs
    with torch.inference_mode():
        one, other = model.eval()(input_ids=ids).logits[:, 1]
    if not torch.allclose(one, other, rtol=1e-2, atol=1e-2):
        raise BadInput(f"{setting} {base.model} is an encoder, which attends to later tokens; give a GPT-2 or Llama")
    return model


def load_checkpoint(folder: Path, **options: Any) -> PreTrainedModel:
    """A teacher or student that a stage saved, low-rank ones included; strict: no weight is missing or left over.

    Its config says which class of model it is.

    Raises:
        BadInput: the checkpoint does not hold exactly the model's weights.
    """
    name = AutoConfig.from_pretrained(folder).architectures[0]
    kind = getattr(modeling, name, None) or getattr(transformers, name)
    model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    if wrong := {problem: keys for problem, keys in report.items() if keys}:
        raise BadInput(f"{folder} does not hold the model that its config.json describes: {wrong}")
    return model.eval()


def set_dropout(model: PreTrainedModel, probability: float) -> PreTrainedModel:
    """The model with this dropout everywhere."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
    return model


def _require_complete(base: Base, report: dict[str, Any], setting: str) -> None:
    if missing := sorted(report["missing_keys"]):
        raise BadInput(f"{setting} {base.model} has no weights for {missing[0]}; give a checkpoint with all of them")


def _require_labels(base: Base, labels: Sequence[str], id2label: dict[int, str], setting: str) -> None:
    own, wanted = ([name.casefold() for name in names] for names in (id2label.values(), labels))
    if wanted and own != wanted and not all(re.fullmatch(r"label_\d+", name) for name in own):
        raise BadInput(
            f"{setting} {base.model} has the labels {', '.join(own)}, in this order, and the task "
            f"{', '.join(wanted)}; give a model of the task's labels, or train one with finetune.epochs above 0"
        )
