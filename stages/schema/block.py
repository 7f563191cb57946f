"""What every block of `params.yaml` is made of: a frozen model without unknown keys, and numbers in range."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0, le=1)]
ShareOrNone = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class Block(BaseModel):
    """A block of `params.yaml`: frozen, closed, every field explained by the docstring under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    renamed: ClassVar[dict[str, str]] = {}
    """Names that a setting, or one of its values (`setting: value`), had in earlier versions -> its name now."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_names(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for name, value in values.items():
                for old in (str(name), f"{name}: {value}"):
                    if new := cls.renamed.get(old):
                        raise ValueError(f"`{old}` is now called `{new}`")
        return values
