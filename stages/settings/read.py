"""params.yaml, read and checked."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stages.settings.block import BadInput
from stages.settings.params import Params, merge
from stages.settings.report import sentences


def load(path: Path | str = "params.yaml", *changes: Path | str) -> Params:
    """Reads and checks all of a params file, with what others change in it, key by key, later ones over earlier ones.

    Raises:
        BadInput: a file is missing, is no YAML, or has a key, value or combination that cannot work.
    """
    values: dict[str, Any] = {}
    for each in (path, *changes):
        values = merge(values, _read(each))
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{path}: {sentences(error)}") from None


def _read(path: Path | str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf8")) or {}
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist; run from the folder that holds params.yaml") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path} must hold blocks like `factorize:`, not {values!r:.50}")
    return values
