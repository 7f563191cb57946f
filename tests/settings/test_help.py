"""The help of every verb: its whole block, and the blocks in it, each once."""

import subprocess
import sys
from pathlib import Path

import pytest

from stages.settings import Distill, Factorize, Params, Prune
from stages.settings.help import format_help, list_sections
from tests.makers.settings import list_blocks

ROOT = Path(__file__).resolve().parents[2]
VERBS = sorted(verb for verb in Params.model_fields if (ROOT / "stages" / f"{verb}.py").exists())


@pytest.mark.parametrize("verb", VERBS)
def test_help_prints_the_whole_block(verb: str) -> None:
    command = [sys.executable, "-m", f"stages.{verb}", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"usage: python -m stages.{verb} " in shown and f"the block `{verb}` of params.yaml" in shown
    for block in list_blocks(Params.model_fields[verb].annotation):
        for name, field in block.model_fields.items():
            assert f"  {name}: " in shown, f"{verb} --help lacks {name}"
            for line in (field.description or "").splitlines():
                assert line.strip() in shown


def test_every_verb_is_covered() -> None:
    assert len(VERBS) == 14 and {"prepare", "distill", "recipes", "time_baselines", "prune"} <= set(VERBS)


def test_nested_blocks_have_sections_of_their_own() -> None:
    text = format_help("factorize", Factorize)
    assert "\n  calibration: Calibration\n" in text
    own = text[text.index("\nCalibration: Training text that") :]
    assert "\n  examples: whole number >= 1 = 1024\n" in own


def test_shared_settings_are_shown_once() -> None:
    text = format_help("distill", Distill)
    assert text.count("  warmup_ratio: ") == 1 and text.count("  weight: ") == 1
    assert "  and the settings of TaskTraining, below" in text and "  and the settings of Training, below" in text
    sections = list_sections(Distill)
    assert len({section.name for section in sections}) == len(sections)
    assert sections[0].name == "Distill" and sections[0].shared == ["TaskTraining"]


@pytest.mark.parametrize(
    ("block", "name", "form", "default"),
    [
        (Factorize, "budget", "number > 0 <= 1", "0.5"),
        (Factorize, "layers", "all | first | last | every | list of (whole number)", "all"),
        (Factorize, "depth", "whole number >= 1 | null", "null"),
        (Distill, "augmented", "true | false", "false"),
        (Distill, "objectives", "Objectives", "{kl: {}, attention_kl: {}, hidden: {}, matrices: {}}"),
        (Factorize, "calibration", "Calibration", ""),
        (Distill, "learning_rate", "number > 0 < 1", "0.0003"),
        (Prune, "targets", "list of (number > 0 < 1 | Target) (1 or more)", "[0.5]"),
        (Params, "tasks", "list of text (1 or more)", "[sentiment]"),
        (Params, "recipes", "name: Recipe", "{}"),
    ],
)
def test_forms_and_defaults_read_as_yaml(block: type, name: str, form: str, default: str) -> None:
    (setting,) = (each for each in list_sections(block)[0].settings if each.name == name)
    assert (setting.form, setting.default) == (form, default)
