"""The shipped params.yaml: it parses, shows every setting, and says what the defaults are."""

from pathlib import Path
from typing import Any

import yaml

from stages.objectives import Objectives
from stages.schema.block import Block
from stages.settings import Distill, Params, Prune, read_params

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = yaml.safe_load((ROOT / "params.yaml").read_text())


def list_missing(shown: dict[str, Any], block: type[Block], prefix: str = "") -> list[str]:
    """Dotted names of the settings that a block of a params file does not show; those of objectives apart."""
    missing = []
    for name, field in block.model_fields.items():
        if name not in shown:
            missing.append(prefix + name)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Block) and name != "objectives":
            missing += list_missing(shown[name], field.annotation, f"{prefix}{name}.")
    return missing


def test_the_shipped_file_parses() -> None:
    params = read_params(ROOT / "params.yaml")
    assert params.tasks == ["sentiment"] and params.base.model == "minilm" and params.data.source == "bundled"


def test_the_shipped_values_are_the_defaults() -> None:
    """A key left out of params.yaml means what params.yaml shows."""
    assert read_params(ROOT / "params.yaml") == Params()


def test_the_shipped_file_shows_every_setting() -> None:
    """Whoever reads params.yaml sees every setting of every block, but for the inner ones of objectives."""
    assert list_missing(SHIPPED, Params) == []


def test_the_shipped_file_shows_every_term_of_the_default_objectives() -> None:
    """Further terms are in the reference, and all in `--help`."""
    for verb, block in {"distill": Distill(), "prune": Prune(targets=[0.5])}.items():
        terms = block.objectives.active_terms()
        assert list(SHIPPED[verb]["objectives"]) == list(terms)
        assert Objectives.model_validate(SHIPPED[verb]["objectives"]) == block.objectives
    assert list(Distill().objectives.active_terms()) == ["kl", "attention_kl", "hidden", "matrices"]
    assert Objectives().active_terms() == {}
