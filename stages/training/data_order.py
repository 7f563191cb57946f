"""The order of the training data: a function of the seed and the epoch alone.

It depends neither on where a run was resumed, nor on how many processes share the batches.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices

from stages.tasks.batches import make_collator


class OrderedTrainer(Trainer):
    """Trainer whose data order is a function of seed and epoch.

    Args:
        group_by_length: batches of similar lengths, by the column `length`.

    Without a `data_collator` examples are padded to the batch's longest.
    """

    loss_is_scaled_for_ga = False
    """Losses here are means over a batch's examples; gradient accumulation divides them by the number of batches."""

    def __init__(self, *args: Any, group_by_length: bool, **kwargs: Any) -> None:
        self.group_by_length = group_by_length
        if "data_collator" not in kwargs:
            kwargs["data_collator"] = make_collator(kwargs["train_dataset"], kwargs["processing_class"])
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int]:
        group_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        lengths = list(self.train_dataset["length"]) if self.group_by_length else range(len(self.train_dataset))
        return LengthGroupedSampler(lengths, group_size, self.args.seed, self.group_by_length)


class LengthGroupedSampler(Sampler[int]):
    """A fresh permutation each epoch, in which examples of similar lengths are neighbors (or not, as set)."""

    def __init__(self, lengths: Sequence[int], group_size: int, seed: int, grouped: bool) -> None:
        self.lengths, self.group_size, self.seed, self.grouped = lengths, group_size, seed, grouped
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if not self.grouped:
            return map(int, torch.randperm(len(self.lengths), generator=generator))
        return iter(get_length_grouped_indices(self.lengths, self.group_size, generator=generator))
