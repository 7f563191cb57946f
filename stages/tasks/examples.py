"""A table of raw columns in, checked examples out: text, text_pair, labels."""

import math
from collections.abc import Callable
from typing import Any

from datasets import Dataset, Features, Value

from stages.errors import BadInput
from stages.schema.task import ClassificationTask, LabeledTask, RegressionTask
from stages.tasks.files import Table

ParseLabel = Callable[[Any, Table, int], float]
"""A cell of the label column, its table and row -> class id or value."""


def read_class_examples(table: Table, name: str, task: ClassificationTask) -> Dataset:
    """The task's columns of a table, under the names that every later stage knows.

    Columns: text, text_pair (pairs only), labels (class ids, int64).

    Raises:
        BadInput: no rows, a missing column, an empty text, a label that is no class of the task.
    """
    return _read_examples(table, name, task, _class_parser(task, name), Value("int64"))


def read_value_examples(table: Table, name: str, task: RegressionTask) -> Dataset:
    """As `read_class_examples`, with values (float32) as labels.

    Raises:
        BadInput: no rows, a missing column, an empty text, a label that is no number.
    """
    return _read_examples(table, name, task, _parse_value, Value("float32"))


def get_column(table: Table, name: str, column: str, setting: str) -> list[Any]:
    """A column of a table; BadInput names the setting, `data.custom.<name>.<setting>`, where there is none."""
    if column not in table.columns:
        known = ", ".join(table.columns)
        raise BadInput(f"{table.origin} has no column `{column}`, but {known}; set data.custom.{name}.{setting}")
    return table.columns[column]


def get_texts(table: Table, name: str, column: str, setting: str = "text") -> list[str]:
    """A column of texts, not all of them empty; BadInput names the row or the setting."""
    texts = get_column(table, name, column, setting)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadInput(f"{table.describe_row(row)}: {column} is {text!r}, not a text; correct that row")
    if not any(text.strip() for text in texts):
        raise BadInput(f"{table.origin}: column `{column}` is empty in all rows; set data.custom.{name}.{setting}")
    return texts


def _read_examples(table: Table, name: str, task: LabeledTask, parse: ParseLabel, label_type: Value) -> Dataset:
    if not table.lines:
        raise BadInput(f"{table.origin} has no rows; give it some, or change data.source")
    texts = [get_texts(table, name, column) for column in task.text]
    _require_text_in_rows(table, task, texts)
    columns: dict[str, list[Any]] = dict(zip(("text", "text_pair"), texts, strict=False))
    labels = get_column(table, name, task.label, "label")
    columns["labels"] = [parse(label, table, row) for row, label in enumerate(labels)]
    types = {column: Value("string") for column in columns} | {"labels": label_type}
    return Dataset.from_dict(columns, Features(types))


def _require_text_in_rows(table: Table, task: LabeledTask, texts: list[list[str]]) -> None:
    """A pair may lack one side (QQP has such rows); a row with no text at all cannot be learned from."""
    for row, parts in enumerate(zip(*texts, strict=True)):
        if not any(part.strip() for part in parts):
            raise BadInput(f"{table.describe_row(row)}: {' and '.join(task.text)} is empty; fill in or remove that row")


def _class_parser(task: ClassificationTask, name: str) -> ParseLabel:
    names = {label: i for i, label in enumerate(task.labels)}
    allowed = ", ".join(task.labels)

    def parse(value: Any, table: Table, row: int) -> int:
        """A class name or, failing that, its id; ids may come as 1, "1" or 1.0."""
        word = str(value).strip()
        if word in names:
            return names[word]
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if number in range(len(names)):
            return int(number)
        problem = "is unknown" if math.isnan(number) else "is outside the range of ids"
        raise BadInput(
            f"{table.describe_row(row)}: label `{word}` {problem}; use {allowed}, or 0 to {len(names) - 1}, "
            f"or set data.custom.{name}.labels"
        )

    return parse


def _parse_value(value: Any, table: Table, row: int) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"{table.describe_row(row)}: label {value!r} is not a number; correct that row")
    return number
