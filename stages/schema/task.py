"""What a task is: a row of a table. One class per kind of task, with the columns, labels and metrics of that kind.

`stages/kinds/<kind>.py` says what is done with a row; here is only what a user writes about it.
"""

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from stages.schema.block import Block

IGNORED = -100
"""The label of a token that is not predicted; what torch's cross_entropy leaves out."""
Documents = Literal["lines", "blank_lines", "articles"]
"""Where a document ends in plain text: with its line, at a blank line, or where the next article begins, at a heading
of WikiText's first level (` = Title = ` between blank lines)."""


class TaskRow(Block):
    """What every kind of task has."""

    folder: str = ""
    """Folder of the official GLUE files; empty: the task's own name."""


class LabeledTask(TaskRow):
    """Texts, or pairs of texts, each with a label."""

    text: Annotated[list[str], Field(min_length=1, max_length=2)] = ["sentence"]
    """The column of the text, or the two columns of a pair."""
    label: str = "label"
    """The column of the label or value."""


class ClassificationTask(LabeledTask):
    """One of several classes for each text."""

    kind: Literal["classification"] = "classification"
    """Each text has one of several classes."""
    labels: list[str] = []
    """Names of the classes in the order of their ids; a label column may hold names or ids."""
    metrics: Annotated[list[Literal["accuracy", "f1", "matthews"]], Field(min_length=1)] = ["accuracy"]
    """Metrics to report; the first is the task's score (best checkpoint, retention). `f1` is that of the second of two
    classes."""

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if len(self.labels) < 2:
            raise ValueError(f"labels must name at least two classes, not {self.labels}")
        if "f1" in self.metrics and len(self.labels) != 2:
            raise ValueError("f1 is for two classes; use accuracy or matthews")
        return self


class RegressionTask(LabeledTask):
    """A value for each text."""

    kind: Literal["regression"]
    """Each text has a value."""
    metrics: Annotated[list[Literal["pearson", "spearman"]], Field(min_length=1)] = ["pearson", "spearman"]
    """Metrics to report; the first is the task's score (best checkpoint, retention)."""


class CausalLMTask(TaskRow):
    """Text whose next token is predicted: plain text, prompts with their responses, or chats."""

    kind: Literal["causal_lm"]
    """A causal language model predicts the next token of plain text, of responses to prompts, or of chats."""
    text: Annotated[list[str], Field(max_length=1)] = ["text"]
    """The column of plain text."""
    prompt: str = ""
    """In place of `text`: the column of the prompt, with the line break or space that ends it."""
    response: str = ""
    """The column of the response; the loss counts its tokens and the end token after it, and none of the prompt's."""
    messages: str = ""
    """In place of `text`: the column of chats, lists of {role, content}, written out by the tokenizer's chat
    template."""
    turns: Literal["all", "last"] = "all"
    """Of `messages`: the loss counts the tokens of all the assistant's turns, or of the last one."""
    documents: Documents = "lines"
    """Where a document ends in plain .txt; see `python -m stages.pack --help`."""
    end: str = ""
    """Token after each document of plain text; empty: the tokenizer's end token."""
    match: str = ""
    """Regular expression for the part of a response that must be equal (its first group if it has one), such as
    `#### (.+)`: `evaluate` then reports the exact match."""
    metrics: Annotated[list[Literal["accuracy", "likelihood", "perplexity"]], Field(min_length=1)] = [
        "accuracy",
        "perplexity",
    ]
    """Metrics to report; the first is the task's score (best checkpoint, retention): accuracy of the next token, or
    likelihood, which is 100 / perplexity."""

    @model_validator(mode="before")
    @classmethod
    def _text_unless_prompts(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {"text": [] if {"prompt", "response", "messages"} & values.keys() else ["text"]} | values

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        forms = [self.text, self.prompt or self.response, self.messages]
        if sum(map(bool, forms)) != 1:
            raise ValueError("a causal_lm task has one text, or prompt and response, or messages")
        if bool(self.prompt) != bool(self.response):
            raise ValueError("prompt and response come together; text without prompts is `text`")
        if self.match and self.text:
            raise ValueError("match is for responses; give prompt and response, or messages")
        try:
            re.compile(self.match)
        except re.error as error:
            raise ValueError(f"match {self.match!r} is no regular expression: {error}") from None
        if self.metrics[0] == "perplexity":
            raise ValueError("metrics begins with perplexity, which is better when lower; put likelihood, 100 over it")
        return self


def _classification_unless_named(row: Any) -> Any:
    return {"kind": "classification"} | row if isinstance(row, dict) else row


Row = ClassificationTask | RegressionTask | CausalLMTask
"""The table of kinds; `stages/kinds/<kind>.py` has what the verbs do with a row."""
KINDS: tuple[str, ...] = tuple(get_args(row.model_fields["kind"].annotation)[0] for row in get_args(Row))
Task = Annotated[Row, Field(discriminator="kind"), BeforeValidator(_classification_unless_named)]
"""A row of any kind."""
TASK: TypeAdapter[Task] = TypeAdapter(Task)
