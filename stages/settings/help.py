"""The settings for people: every field with its form, default and docstring, each shared block once.

The same sections make the `--help` of a verb and `docs/reference/settings.md`.
"""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import get_annotations, getdoc
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stages.schema.block import Block

NAMES = {int: "whole number", float: "number", str: "text", bool: "true | false", Any: "any"}
HIDDEN = (Block, BaseModel, object)
"""Base classes without fields."""


@dataclass(frozen=True)
class Setting:
    """One field of a block."""

    name: str
    form: str
    """What it accepts, such as `number > 0 | Ramp`."""
    default: str
    """As YAML shows it; empty where it must be given, or is a block with its own section."""
    text: str
    """Its docstring."""
    is_block: bool
    """Whether it is a block of settings, with its own section."""


@dataclass(frozen=True)
class Section:
    """One block, with the fields that it does not share with others."""

    name: str
    text: str
    settings: list[Setting]
    shared: list[str]
    """Names of the sections whose settings it has as well."""


def list_sections(block: type[Block]) -> list[Section]:
    """The block's section, then those of the blocks in it and of what they share, each once."""
    blocks: list[type[Block]] = [block]
    for current in blocks:  # grows while it is read
        blocks += [other for other in (*_list_shared(current), *_list_inner(current)) if other not in blocks]
    return [describe_block(each) for each in blocks]


def format_help(verb: str, block: type[Block]) -> str:
    """The sections as the end of a verb's `--help`."""
    first, *others = list_sections(block)
    lines = [f"settings: the block `{verb}` of params.yaml", "", *_format_section(first, title=False)]
    for section in others:
        lines += ["", *_format_section(section)]
    return "\n".join(lines)


def _format_section(section: Section, *, title: bool = True) -> Iterator[str]:
    if title:
        yield f"{section.name}: {section.text.splitlines()[0] if section.text else ''}".rstrip(": ")
    for setting in section.settings:
        default = f" = {setting.default}" if setting.default else ""
        yield f"  {setting.name}: {setting.form}{default}"
        yield from (f"      {line}" for line in setting.text.splitlines())
    if section.shared:
        yield f"  and the settings of {', '.join(section.shared)}, below"


def describe_block(block: type[Block]) -> Section:
    """A block as a section."""
    settings = [_describe_field(name, block.model_fields[name]) for name in _list_own_fields(block)]
    shared = [base.__name__ for base in _list_shared(block)]
    return Section(block.__name__, getdoc(block) or "", settings, shared)


def _list_own_fields(block: type[Block]) -> list[str]:
    """Fields that the block defines itself, or changes."""
    return [name for name in block.model_fields if name in get_annotations(block)]


def _list_shared(block: type[Block]) -> list[type[Block]]:
    """The nearest base class with fields."""
    bases = [base for base in block.__mro__[1:] if base not in HIDDEN and issubclass(base, Block)]
    return [base for base in bases if _list_own_fields(base)][:1]


def _list_inner(block: type[Block]) -> Iterator[type[Block]]:
    for name in _list_own_fields(block):
        yield from list_blocks(block.model_fields[name].annotation)


def list_blocks(form: Any) -> Iterator[type[Block]]:
    """The blocks that a type names."""
    if isinstance(form, type) and issubclass(form, Block):
        yield form
    for part in get_args(form):
        yield from list_blocks(part)


def _describe_field(name: str, field: FieldInfo) -> Setting:
    default = "" if field.is_required() else _format_default(field.get_default(call_default_factory=True))
    text = "\n".join(line.strip() for line in (field.description or "").splitlines())
    is_block = isinstance(field.annotation, type) and issubclass(field.annotation, Block)
    return Setting(name, _format_form(field.annotation, field.metadata), default, text, is_block)


def _format_default(value: Any) -> str:
    if isinstance(value, Block):
        return _format_changes(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_format_default(each) for each in value)}]"
    return '""' if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def _format_changes(block: Block) -> str:
    """What a block has changed from its own defaults, in braces; empty where that is nothing."""
    changed = {name: getattr(block, name) for name in type(block).model_fields if name in block.model_fields_set}
    entries = [f"{name}: {_format_default(value) or '{}'}" for name, value in changed.items()]
    return f"{{{', '.join(entries)}}}" if entries else ""


def _format_form(form: Any, metadata: Any = ()) -> str:
    """A type as people read it."""
    origin, parts = get_origin(form), get_args(form)
    if origin is Annotated:
        return _format_form(parts[0], parts[1:])
    if origin is Literal:
        return " | ".join(_format_default(value) for value in parts)
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(_format_form(part) for part in parts))
    if origin is list:
        return f"list of {_plural(_format_form(parts[0]))}{_format_limits(metadata)}"
    if origin is tuple:
        return f"[{', '.join(_format_form(part) for part in parts)}]"
    if origin is dict:
        return f"name: {_format_form(parts[1])}"
    if form is type(None):
        return "null"
    name = NAMES.get(form) or getattr(form, "__name__", str(form))
    return f"{name}{_format_limits(metadata)}"


def _format_limits(metadata: Any) -> str:
    signs = {Gt: ">", Ge: ">=", Lt: "<", Le: "<="}
    limits = []
    for each in metadata:
        for sub in (each, *getattr(each, "metadata", ())):
            for kind, sign in signs.items():
                if isinstance(sub, kind):
                    limits.append(f"{sign} {getattr(sub, kind.__name__.lower()):g}")
            if isinstance(sub, MinLen):
                limits.append(f"({sub.min_length} or more)")
            if isinstance(sub, MaxLen):
                limits.append(f"(at most {sub.max_length})")
    return "".join(f" {limit}" for limit in limits)


def _plural(form: str) -> str:
    """`whole number >= 1` -> `(whole number >= 1)`: a list's items in brackets where they are more than a word."""
    return form if form.isidentifier() else f"({form})"
