"""What a corpus is: a row that says where text is and where one document ends."""

from typing import Literal

from stages.schema.block import Block
from stages.schema.task import Documents


class Corpus(Block):
    """Text without labels."""

    kind: Literal["masked_lm"] = "masked_lm"
    """What a model learns from the text: to predict its masked tokens."""
    source: str
    """A file (.txt, .tokens, .jsonl, .parquet, .csv), a folder of such files, a hub id (`owner/name`, or with its
    configuration `owner/name:config`), a folder with a data set of the hub (or `folder:config`), or `bundled`. In a
    folder of files, those named `valid`, `validation` or `dev` are the validation text, those named `test` are left
    out."""
    text: str = "text"
    """The column of the text in JSONL, Parquet, CSV and on the hub, one document a row."""
    documents: Documents = "lines"
    """Where a document ends in .txt and .tokens: with its line, at a blank line, or where the next article begins, at a
    heading of WikiText's first level (` = Title = ` between blank lines)."""
    validation: str | None = None
    """File or folder of validation text; null: what the source has, else a share of its documents
    (`pack.validation_share`)."""


CORPORA: dict[str, Corpus] = {"bundled": Corpus(source="bundled")}
