"""Every block of params.yaml: explained, frozen, without unknown keys, its earlier names refused."""

import pytest
from pydantic import BaseModel, ValidationError

from stages.schema.block import Block
from stages.settings import Params
from tests.makers.settings import list_blocks

BLOCKS = sorted(list_blocks(Params), key=lambda block: block.__name__)


def list_renamed() -> list[tuple[type[Block], str, str]]:
    """Each block with the names and values that it no longer has, and what they are called now."""
    return [(block, earlier, current) for block in BLOCKS for earlier, current in block.renamed.items()]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_every_field_is_explained(block: type[Block]) -> None:
    assert block.__doc__ and block.__doc__ != BaseModel.__doc__
    fields = dict(block.model_fields)
    if block is Params:  # its blocks explain themselves
        fields = {name: fields[name] for name in ("seed", "tasks", "corpora", "recipes")}
    assert [name for name, field in fields.items() if not field.description] == []


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_every_block_is_closed_and_frozen(block: type[Block]) -> None:
    assert block.model_config["extra"] == "forbid" and block.model_config["frozen"]


def test_all_kinds_of_blocks_are_covered() -> None:
    assert {"Params", "Ramp", "KL", "ClassificationTask", "Corpus", "Recipe", "Limit", "Target"} <= {
        block.__name__ for block in BLOCKS
    }


@pytest.mark.parametrize(("block", "earlier", "current"), list_renamed())
def test_an_earlier_name_is_refused_with_the_present_one(block: type[Block], earlier: str, current: str) -> None:
    """The present one is a setting of that block, or a value that its setting takes."""
    name, _, value = earlier.partition(": ")
    with pytest.raises(ValidationError, match=f"`{earlier}` is now called `{current}`"):
        block.model_validate({name: value or 0.5})
    setting, _, value = current.partition(": ")
    assert setting in block.model_fields
    if value:
        assert getattr(block.model_validate({setting: value}), setting) == value
