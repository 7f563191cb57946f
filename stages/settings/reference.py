"""The reference of all settings and objectives as Markdown, made of the same docstrings as `--help`.

python -m stages.settings.reference docs/reference
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from stages.objectives import Objectives
from stages.settings import Params
from stages.settings.help import Section, Setting, describe_block, list_blocks, list_sections

NOTE = "<!-- written by `python -m stages.settings.reference docs/reference` from the docstrings of the settings -->"
SETTINGS = """\
Every setting of `params.yaml`, with what it accepts and its default. A name that does not exist, a value out of its
range, or two settings that exclude each other are refused before anything runs, in one sentence that says what would be
accepted. The objectives have [a page of their own](objectives.md)."""
OBJECTIVES = """\
The terms that `distill.objectives` and `prune.objectives` may name, each with its formula and source. p and q are the
teacher's and the student's softened output, z_t and z_s their logits. A weight or a temperature may be a ramp. Every
objective is a mean over examples; for language models over the predicted tokens."""
FORMULA = re.compile(r"^\S+( \S+)? = |^\[")


def write_reference(folder: Path) -> None:
    """Writes settings.md and objectives.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.md").write_text(format_settings(), encoding="utf8")
    (folder / "objectives.md").write_text(format_objectives(), encoding="utf8")


def format_settings() -> str:
    """A section for each block of params.yaml in its order, then the blocks that several share."""
    objectives = {section.name for section in list_sections(Objectives)}
    top, *others = [section for section in list_sections(Params) if section.name not in objectives]
    lines = [NOTE, "", "# Settings", "", SETTINGS, "", *map(_format_setting, top.settings)]
    for section in others:
        lines += ["", *_format_section(section)]
    return "\n".join(lines) + "\n"


def format_objectives() -> str:
    """A section for each term of the loss: formula, source, settings."""
    lines = [NOTE, "", "# Objectives", "", OBJECTIVES]
    table = [("term", "level", "compares")]
    rows = []
    for name, field in Objectives.model_fields.items():
        level, _, what = (field.description or "").partition(": ")
        table.append((f"[`{name}`](#{name})", level, _join(what)))
        (block,) = list_blocks(field.annotation)
        rows += ["", f"## {name}", "", *_format_block(describe_block(block))]
    lines += ["", *_format_table(table), *rows]
    named = {block.__name__ for field in Objectives.model_fields.values() for block in list_blocks(field.annotation)}
    for section in list_sections(Objectives)[1:]:
        if section.name not in named:
            lines += ["", *_format_section(section)]
    return "\n".join(lines) + "\n"


def _format_table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    for i, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if i == 0:
            yield "|---|---|---|"


def _format_section(section: Section) -> Iterator[str]:
    yield f"## {section.name}"
    yield ""
    yield from _format_block(section)


def _format_block(section: Section) -> Iterator[str]:
    """Paragraphs, formulas as code, then a list of the settings."""
    paragraphs = section.text.split("\n\n")
    for number, paragraph in enumerate(filter(None, paragraphs)):
        yield from [""] if number else []
        yield from ["```", paragraph, "```"] if FORMULA.search(paragraph) else [_join(paragraph)]
    if section.settings:
        yield ""
    yield from map(_format_setting, section.settings)
    if section.shared:
        yield ""
        yield f"And the settings of {', '.join(f'[{name}](#{name.lower()})' for name in section.shared)}."


def _format_setting(setting: Setting) -> str:
    default = f", default `{setting.default}`" if setting.default else ""
    form = f"[{setting.form}](#{setting.form.lower()})" if setting.is_block else f"`{setting.form}`"
    return f"- **`{setting.name}`** ({form}{default}): {_join(setting.text)}".rstrip(": ")


def _join(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
