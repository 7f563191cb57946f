"""What is wrong with a setting, in one sentence for people."""

from itertools import takewhile

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stages.objectives import Ramp
from stages.schema.task import KINDS


def format_errors(error: ValidationError) -> str:
    """What is wrong. Of a setting with several forms, the errors of the form that came nearest."""
    settings: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for details in error.errors():
        settings.setdefault(tuple(takewhile(_is_name, details["loc"])), []).append(details)
    places: dict[str, list[ErrorDetails]] = {}
    for errors in settings.values():
        depth = max(len(details["loc"]) for details in errors)
        for details in (details for details in errors if len(details["loc"]) == depth):
            path = [str(part) for part in details["loc"] if _is_name(part) and part not in KINDS]
            places.setdefault(".".join(path), []).append(details)
    return "; ".join(_format_error(path, errors) for path, errors in places.items())


def _is_name(part: str | int) -> bool:
    """A key or an index, and not pydantic's tag of one of a union's forms, such as `constrained-int`."""
    return isinstance(part, int) or (part.isidentifier() and part not in (Ramp.__name__, "int", "float", "str"))


def _format_error(path: str, errors: list[ErrorDetails]) -> str:
    kind, value = errors[0]["type"], errors[0]["input"]
    message = " or ".join(dict.fromkeys(error["msg"].removeprefix("Value error, ") for error in errors))
    if kind == "extra_forbidden":
        return f"{path} is not a setting{_of_kind(errors[0]['loc'])}"
    if kind == "union_tag_invalid":
        return f"{path}.kind = {value['kind']!r}: the kinds are {', '.join(KINDS)}"
    return f"{path}: {message}".removeprefix(": ") if kind == "value_error" else f"{path} = {value!r}: {message}"


def _of_kind(location: tuple[str | int, ...]) -> str:
    kinds = [part for part in location if part in KINDS]
    return f" of a {kinds[0]} task" if kinds else ""
