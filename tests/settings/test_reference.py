"""docs/reference is what the code says."""

from pathlib import Path

import pytest

from stages.objectives import Objectives
from stages.settings.help import list_sections
from stages.settings.params import Params
from stages.settings.reference import write_reference
from tests.house.imports import ROOT


@pytest.mark.parametrize("name", ["settings.md", "objectives.md"])
def test_the_reference_is_up_to_date(tmp_path: Path, name: str) -> None:
    write_reference(tmp_path)
    shipped = (ROOT / "docs/reference" / name).read_text(encoding="utf8")
    hint = "run `python -m stages.settings.reference docs/reference`"
    assert (tmp_path / name).read_text(encoding="utf8") == shipped, hint


def test_every_setting_has_its_docstring(tmp_path: Path) -> None:
    write_reference(tmp_path)
    text = "".join((tmp_path / name).read_text(encoding="utf8") for name in ("settings.md", "objectives.md"))
    for section in list_sections(Params):
        for setting in section.settings:
            heading = f"## {setting.name}\n" if section.name == "Objectives" else f"**`{setting.name}`**"
            assert heading in text
            assert setting.text or setting.is_block, f"{section.name}.{setting.name} has no docstring"


def test_every_objective_has_its_formula() -> None:
    """What a reader of the papers looks for: a formula and its source, or that it is ours."""
    for section in list_sections(Objectives)[1:]:
        if section.name in {field.annotation.__args__[0].__name__ for field in Objectives.model_fields.values()}:
            assert "=" in section.text, section.name
