"""params.yaml, read and checked."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stages.errors import BadInput
from stages.settings.messages import format_errors
from stages.settings.params import Params, merge


def read_params(path: Path | str = "params.yaml", *changes: Path | str) -> Params:
    """Reads and checks all of a params file, with what further files change in it, key by key, later over earlier ones.

    Raises:
        BadInput: a file is missing, is no YAML, or has a key, value or combination that cannot work.
    """
    values: dict[str, Any] = {}
    for each in (path, *changes):
        values = merge(values, _read_yaml(each))
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{path}: {format_errors(error)}") from None


def _read_yaml(path: Path | str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf8")) or {}
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist; run from the folder that holds params.yaml") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{path} must hold blocks like `factorize:`, not {values!r:.50}")
    return values
