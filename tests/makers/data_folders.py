"""Data files as users write them, and the examples that a source has for a task."""

from pathlib import Path
from typing import Any, cast

from datasets import Dataset

from stages.kinds import get_kind
from stages.schema.task import Task
from stages.settings import Base, Data, Prepare
from stages.tasks.preparation import Preparation
from tests.makers.texts import REVIEWS


def write_rows(path: Path, *rows: list[str] | None, joint: str = "\t") -> None:
    """A text file with a line per row; None is no row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(joint.join(row) + "\n" for row in rows if row)
    path.write_text(text, encoding="utf8", newline="")


def load_examples(
    source: Path | str, name: str = "reviews", task: Task = REVIEWS, *, share: float = 0.25, seed: int = 3
) -> dict[str, Dataset]:
    """The splits of a task with labels, before they are tokenized."""
    given = Preparation(
        name=name,
        task=task,
        data=Data(source=str(source)),
        base=Base(),
        tokenizer=cast(Any, None),
        settings=Prepare(validation_share=share),
        seed=seed,
        folder=Path("unused"),
    )
    return get_kind(task).load_examples(given)


def read_row(split: Dataset, number: int = 0) -> tuple[str, str | None, float]:
    """Text, second text of a pair, label."""
    row = split[number]
    return row["text"], row.get("text_pair"), row["labels"]
