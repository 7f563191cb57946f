"""A table of raw columns in, checked examples out: text, text_pair, labels."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stages.settings import BadInput
from stages.tasks import Task
from stages.tasks.files import Table

if TYPE_CHECKING:
    from datasets import Dataset


def examples(table: Table, name: str, task: Task) -> "Dataset":
    """The task's columns of a table, under the names that every later stage knows.

    Columns: text, text_pair (pairs only), labels (int64 class ids, or float32 values).

    Raises:
        BadInput: no rows, a missing column, an empty text, a label that is no class of the task or no number.
    """
    from datasets import Dataset, Features, Value

    if not table.lines:
        raise BadInput(f"{table.origin} has no rows; give it some, or change data.source")
    texts = [texts_of(table, name, column) for column in task.text]
    _no_row_empty(table, task, texts)
    parse = _number if task.kind == "regression" else _class_id(task, name)
    labels = column_of(table, name, task.label, "label")
    columns = dict(zip(("text", "text_pair"), texts, strict=False))
    columns["labels"] = [parse(label, table, row) for row, label in enumerate(labels)]
    kinds = {"labels": Value("float32" if task.kind == "regression" else "int64")}
    return Dataset.from_dict(columns, Features({c: kinds.get(c, Value("string")) for c in columns}))


def column_of(table: Table, name: str, column: str, setting: str) -> list[Any]:
    """A column of a table; BadInput names the setting, `data.custom.<name>.<setting>`, where there is none."""
    if column not in table.columns:
        found = ", ".join(table.columns)
        raise BadInput(f"{table.origin} has no column `{column}`, but {found}; set data.custom.{name}.{setting}")
    return table.columns[column]


def texts_of(table: Table, name: str, column: str, setting: str = "text") -> list[str]:
    """A column of texts, not all of them empty; BadInput names the row or the setting."""
    texts = column_of(table, name, column, setting)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadInput(f"{table.where(row)}: {column} is {text!r} where a text is wanted; correct that row")
    if not any(text.strip() for text in texts):
        raise BadInput(f"{table.origin}: column `{column}` is empty in all rows; set data.custom.{name}.{setting}")
    return texts


def _no_row_empty(table: Table, task: Task, texts: list[list[str]]) -> None:
    """A pair may lack one side (QQP has such rows); a row with no text at all cannot be learned from."""
    for row, parts in enumerate(zip(*texts, strict=True)):
        if not any(part.strip() for part in parts):
            raise BadInput(f"{table.where(row)}: {' and '.join(task.text)} is empty; fill in or remove that row")


def _class_id(task: Task, name: str) -> Callable[[Any, Table, int], int]:
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
        problem = "is outside the range of ids" if number == number else "is unknown"
        raise BadInput(
            f"{table.where(row)}: label `{word}` {problem}; use {allowed}, or 0 to {len(names) - 1}, "
            f"or set data.custom.{name}.labels"
        )

    return parse


def _number(value: Any, table: Table, row: int) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"{table.where(row)}: label {value!r} is not a number; correct that row")
    return number
