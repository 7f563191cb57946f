"""What every block of params.yaml is made of."""

from typing import ClassVar

import pytest
from pydantic import ValidationError

from stages.schema.block import Block


class Oven(Block):
    """Bakes."""

    renamed: ClassVar = {"heat": "temperature", "mode: hot": "mode: fan"}

    temperature: float = 180.0
    """In degrees."""
    mode: str = "plain"
    """How it heats."""


class Range(Block):
    """A stove with an oven."""

    oven: Oven = Oven()
    """Under the hob."""


def test_fields_are_explained_by_the_docstring_under_them() -> None:
    assert Oven.model_fields["temperature"].description == "In degrees."


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"heat": 200}, "`heat` is now called `temperature`"),
        ({"mode": "hot"}, "`mode: hot` is now called `mode: fan`"),
        ({"light": True}, "Extra inputs are not permitted"),
    ],
)
def test_earlier_and_unknown_names_are_refused(values: dict, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Oven.model_validate(values)
    with pytest.raises(ValidationError, match=sentence):
        Range.model_validate({"oven": values})


def test_present_names_and_other_values_are_accepted() -> None:
    assert Oven.model_validate({"temperature": 200, "mode": "fan"}) == Oven(temperature=200.0, mode="fan")
    assert Oven.model_validate({"mode": "heat"}).mode == "heat", "a name is no value"


def test_a_block_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Range().oven.temperature = 20
