"""What a task is: a row of a table. The same verbs serve every row; its kind decides model and metrics."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["classification", "regression", "causal_lm"]
Metric = Literal["accuracy", "f1", "matthews", "pearson", "spearman", "likelihood", "perplexity"]
METRICS: dict[Kind, set[Metric]] = {
    "classification": {"accuracy", "f1", "matthews"},
    "regression": {"pearson", "spearman"},
    "causal_lm": {"accuracy", "likelihood", "perplexity"},
}
IGNORED = -100
"""The label of a token that nobody asks for; what torch's cross_entropy leaves out."""


class Task(BaseModel):
    """One text task: texts with labels, or text whose next token is to be guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Kind = "classification"
    """`regression` has one output, no labels, and is scored by pearson or spearman. `causal_lm` has plain text, prompts
    with their responses, or chats."""
    text: Annotated[list[str], Field(max_length=2)] = ["sentence"]
    """The column of the text, or the two columns of a pair; of a causal_lm's plain text, `text` unless named."""
    prompt: str = ""
    """causal_lm: the column of what is given, in full, with the line break or space that ends it."""
    response: str = ""
    """causal_lm: the column of what is to be said then; only its tokens, and the end token behind it, are asked for."""
    messages: str = ""
    """causal_lm: the column of chats, lists of {role, content}, written out by the tokenizer's chat template."""
    turns: Literal["all", "last"] = "all"
    """Of `messages`: ask for the tokens of all the assistant's turns, or of the last one."""
    documents: Literal["lines", "blank_lines", "articles"] = "lines"
    """Where a document ends in plain .txt; see `python -m stages.pack --help`."""
    end: str = ""
    """Token that stands behind each document of plain text; empty: the tokenizer's end token."""
    match: str = ""
    """Regular expression for the part of a response that must be the same, its first group if it has one, such as
    `#### (.+)`: `evaluate` then says how often it is."""
    label: str = "label"
    """The column of the label or value."""
    labels: list[str] = []
    """Names of the classes in the order of their ids; a label column may hold names or ids."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["accuracy"]
    """Metrics to report; the first is the task's score (best checkpoint, retention), the higher the better. Of a
    causal_lm accuracy (of the next token) and perplexity unless named; likelihood is 100 / perplexity."""
    folder: str = ""
    """Folder of the official GLUE files; empty: the task's own name."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("kind") != "causal_lm":
            return values
        plain = not {"prompt", "response", "messages"} & values.keys()
        return {"text": ["text"] if plain else [], "metrics": ["accuracy", "perplexity"]} | values

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        if self.kind == "classification" and len(self.labels) < 2:
            raise ValueError(f"labels must name at least two classes, not {self.labels}")
        if self.kind != "classification" and self.labels:
            raise ValueError(f"a {self.kind} task has no labels, not {self.labels}")
        if wrong := [m for m in self.metrics if m not in METRICS[self.kind]]:
            known = ", ".join(sorted(METRICS[self.kind]))
            raise ValueError(f"metrics {wrong} do not fit kind {self.kind}; use {known}")
        if "f1" in self.metrics and len(self.labels) != 2:
            raise ValueError("f1 is for two classes; use accuracy or matthews")
        if self.metrics[0] == "perplexity":
            raise ValueError("metrics begins with perplexity, which is better when lower; put likelihood, 100 over it")
        return self

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        forms = [self.text, self.prompt or self.response, self.messages]
        if self.kind != "causal_lm" and (any(forms[1:]) or not self.text):
            raise ValueError(f"a {self.kind} task has text and no prompt, response or messages")
        if self.kind == "causal_lm" and (sum(map(bool, forms)) != 1 or len(self.text) > 1):
            raise ValueError("a causal_lm task has one text, or prompt and response, or messages")
        if bool(self.prompt) != bool(self.response):
            raise ValueError("prompt and response come together; text without prompts is `text`")
        if self.match and (self.kind != "causal_lm" or self.text):
            raise ValueError("match is for responses; give prompt and response, or messages")
        try:
            re.compile(self.match)
        except re.error as error:
            raise ValueError(f"match {self.match!r} is no regular expression: {error}") from None
        return self

    @property
    def outputs(self) -> int:
        """Width of the model's head."""
        return len(self.labels) or 1


_PAIR = ["sentence1", "sentence2"]
_ENTAIL = ["entailment", "not_entailment"]
_NLI = {
    "text": ["premise", "hypothesis"],
    "labels": ["entailment", "neutral", "contradiction"],
    "folder": "MNLI",
}

# Columns and label order as on the hub (nyu-mll/glue); folder.py maps the official files' columns onto them.
GLUE: dict[str, Task] = {
    "sentiment": Task(labels=["negative", "positive"], folder="sentiment"),
    "cola": Task(labels=["unacceptable", "acceptable"], metrics=["matthews", "accuracy"], folder="CoLA"),
    "sst2": Task(labels=["negative", "positive"], folder="SST-2"),
    "mrpc": Task(text=_PAIR, labels=["not_equivalent", "equivalent"], metrics=["f1", "accuracy"], folder="MRPC"),
    "qqp": Task(
        text=["question1", "question2"],
        labels=["not_duplicate", "duplicate"],
        metrics=["f1", "accuracy"],
        folder="QQP",
    ),
    "stsb": Task(kind="regression", text=_PAIR, metrics=["pearson", "spearman"], folder="STS-B"),
    "mnli": Task(**_NLI),
    "mnli_mismatched": Task(**_NLI),
    "qnli": Task(text=["question", "sentence"], labels=_ENTAIL, folder="QNLI"),
    "rte": Task(text=_PAIR, labels=_ENTAIL, folder="RTE"),
    "wnli": Task(text=_PAIR, labels=["not_entailment", "entailment"], folder="WNLI"),
}
