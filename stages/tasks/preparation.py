"""What the splits of a task are made of: one object for those who write them, each kind of task in its own way."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.settings import Base, Data, Prepare
from stages.tasks import Task, sources
from stages.tasks.splits import fingerprint

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """A task, where its examples come from, and how they are to be written."""

    name: str
    """The task's."""
    task: Task
    data: Data
    base: Base
    tokenizer: "PreTrainedTokenizerBase"
    """The base model's."""
    settings: Prepare
    seed: int
    place: Path
    """Folder that gets a folder for each split."""

    def examples(self) -> tuple[str, dict[str, "Dataset"]]:
        """The name of the source's content and its splits, of train as many examples as are to be trained on.

        Raises:
            BadInput: the source cannot work.
        """
        splits = sources.load(self.data, self.name, self.task, self.settings.validation_share, self.seed)
        train, most = splits["train"], self.settings.train_examples
        if most is not None and most < len(train):
            drawn = train.shuffle(seed=self.seed, keep_in_memory=True)
            splits["train"] = drawn.select(range(most), keep_in_memory=True)
        return fingerprint(splits), splits
