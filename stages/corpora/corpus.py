"""What a corpus is: a row that says where text stands and where one document ends."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Corpus(BaseModel):
    """Text without labels."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    source: str
    """A file (.txt, .tokens, .jsonl, .parquet, .csv), a folder of such files, a hub id (`owner/name`, or with its
    configuration `owner/name:config`), a folder with a data set of the hub (or `folder:config`), or `bundled`. In a
    folder of files, those named `valid`, `validation` or `dev` are the validation text, those named `test` are left
    out."""
    text: str = "text"
    """The column of the text in JSONL, Parquet, CSV and on the hub, one document a row."""
    documents: Literal["lines", "blank_lines", "articles"] = "lines"
    """Where a document ends in .txt and .tokens: with its line, at a blank line, or where the next article begins, at a
    heading of WikiText's first level (` = Title = ` between blank lines)."""
    validation: str | None = None
    """File or folder of validation text; null: what the source has, else a share of its documents
    (`pack.validation_share`)."""


CORPORA: dict[str, Corpus] = {"bundled": Corpus(source="bundled")}
