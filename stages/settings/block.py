"""What all blocks share, and how wrong input is told."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, le=1)]
ShareOrNone = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class BadInput(ValueError):
    """Something the user gave cannot work; the message is one sentence that says what would."""


class Block(BaseModel):
    """A block of `params.yaml`: frozen, closed, every field explained by the docstring under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
