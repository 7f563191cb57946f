"""What the splits of a task are made of: one object for those that write them, each kind of task in its own way."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from stages.schema.task import Row
from stages.settings import Base, Data, Prepare

R = TypeVar("R", bound=Row)


@dataclass(frozen=True, kw_only=True)
class Preparation(Generic[R]):
    """A task, where its examples come from, and how they are to be written."""

    name: str
    """The task's."""
    task: R
    data: Data
    base: Base
    tokenizer: PreTrainedTokenizerBase
    """The base model's."""
    settings: Prepare
    seed: int
    folder: Path
    """Gets a folder for each split."""

    def draw_train_examples(self, splits: dict[str, Dataset]) -> dict[str, Dataset]:
        """The splits, of train as many examples as are to be trained on."""
        train, most = splits["train"], self.settings.train_examples
        if most is None or most >= len(train):
            return splits
        drawn = train.shuffle(seed=self.seed, keep_in_memory=True)
        return splits | {"train": drawn.select(range(most), keep_in_memory=True)}
