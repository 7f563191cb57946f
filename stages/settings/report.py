"""Blocks for people: their help, and what is wrong with a value."""

from itertools import takewhile
from typing import Any

from pydantic import BaseModel, ValidationError

from stages.distillation.objectives import Ramp


def describe(block: type[BaseModel], indent: str = "  ") -> str:
    """The block as help text: every field with its type, default and docstring."""
    lines = []
    for name, field in block.model_fields.items():
        nested = _nested(field.annotation)
        default = "" if nested or field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
        lines.append(f"{indent}{name}{default}")
        if field.description:
            lines += [f"{indent}    {line.strip()}" for line in field.description.splitlines()]
        if nested:
            lines.append(describe(nested, indent + "    "))
    return "\n".join(lines)


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_nested, getattr(annotation, "__args__", ()))), None)


def sentences(error: ValidationError) -> str:
    """What is wrong, for people. Of a setting with several forms, what is said of the form that came nearest."""
    settings: dict[tuple, list[Any]] = {}
    for found in error.errors():
        settings.setdefault(tuple(takewhile(_is_name, found["loc"])), []).append(found)
    places: dict[str, list[Any]] = {}
    for errors in settings.values():
        depth = max(len(found["loc"]) for found in errors)
        for found in (found for found in errors if len(found["loc"]) == depth):
            places.setdefault(".".join(str(part) for part in found["loc"] if _is_name(part)), []).append(found)
    return "; ".join(_sentence(place, errors) for place, errors in places.items())


def _is_name(part: str | int) -> bool:
    """A key or an index, and not pydantic's tag of one of a union's forms, such as `constrained-int`."""
    return isinstance(part, int) or (part.isidentifier() and part not in (Ramp.__name__, "int", "float", "str"))


def _sentence(place: str, errors: list[Any]) -> str:
    kind, value = errors[0]["type"], errors[0]["input"]
    message = " or ".join(dict.fromkeys(error["msg"].removeprefix("Value error, ") for error in errors))
    if kind == "extra_forbidden":
        return f"{place} is not a setting"
    return f"{place}: {message}".removeprefix(": ") if kind == "value_error" else f"{place} = {value!r}: {message}"
