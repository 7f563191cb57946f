"""What a task is: a row of a table. The same verbs serve every row; its kind decides model and metrics."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Metric = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]


class Task(BaseModel):
    """One supervised text task."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["classification", "regression"] = "classification"
    """`regression` has one output, no labels, and is scored by pearson or spearman."""
    text: Annotated[list[str], Field(min_length=1, max_length=2)] = ["sentence"]
    """The column of the text, or the two columns of a pair."""
    label: str = "label"
    """The column of the label or value."""
    labels: list[str] = []
    """Names of the classes in the order of their ids; a label column may hold names or ids."""
    metrics: Annotated[list[Metric], Field(min_length=1)] = ["accuracy"]
    """Metrics to report; the first is the task's score (best checkpoint, retention)."""
    folder: str = ""
    """Folder of the official GLUE files; empty: the task's own name."""

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        regression = {"pearson", "spearman"}
        if self.kind == "classification" and len(self.labels) < 2:
            raise ValueError(f"labels must name at least two classes, not {self.labels}")
        if self.kind == "regression" and self.labels:
            raise ValueError(f"a regression task has no labels, not {self.labels}")
        wrong = [m for m in self.metrics if (m in regression) != (self.kind == "regression")]
        if wrong:
            raise ValueError(f"metrics {wrong} do not fit kind {self.kind}")
        if "f1" in self.metrics and len(self.labels) != 2:
            raise ValueError("f1 is for two classes; use accuracy or matthews")
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
