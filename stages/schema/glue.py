"""GLUE's nine tasks and the bundled one, as rows of the table of tasks.

Columns and label order as on the hub (nyu-mll/glue); stages/tasks/data_folder.py maps the official files' columns onto
them.
"""

from stages.schema.task import ClassificationTask, RegressionTask, Task

_PAIR = ["sentence1", "sentence2"]
_ENTAIL = ["entailment", "not_entailment"]
_MNLI = ClassificationTask(
    text=["premise", "hypothesis"], labels=["entailment", "neutral", "contradiction"], folder="MNLI"
)

GLUE: dict[str, Task] = {
    "sentiment": ClassificationTask(labels=["negative", "positive"], folder="sentiment"),
    "cola": ClassificationTask(labels=["unacceptable", "acceptable"], metrics=["matthews", "accuracy"], folder="CoLA"),
    "sst2": ClassificationTask(labels=["negative", "positive"], folder="SST-2"),
    "mrpc": ClassificationTask(
        text=_PAIR, labels=["not_equivalent", "equivalent"], metrics=["f1", "accuracy"], folder="MRPC"
    ),
    "qqp": ClassificationTask(
        text=["question1", "question2"],
        labels=["not_duplicate", "duplicate"],
        metrics=["f1", "accuracy"],
        folder="QQP",
    ),
    "stsb": RegressionTask(kind="regression", text=_PAIR, folder="STS-B"),
    "mnli": _MNLI,
    "mnli_mismatched": _MNLI,
    "qnli": ClassificationTask(text=["question", "sentence"], labels=_ENTAIL, folder="QNLI"),
    "rte": ClassificationTask(text=_PAIR, labels=_ENTAIL, folder="RTE"),
    "wnli": ClassificationTask(text=_PAIR, labels=["not_entailment", "entailment"], folder="WNLI"),
}
