"""Distillation on text: student and teacher guess the next token of the same examples."""

from dataclasses import replace

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction

from stages.distillation.language_model import LanguageModelTrainer, discrepancy
from stages.language.scores import Question, next_tokens
from stages.models.anatomy import Parts
from stages.settings import TaskTraining
from stages.tasks import Task
from stages.training import Goal, scored_by


class CausalLMTrainer(LanguageModelTrainer):
    """Asked for are the labels of packed text or of responses, each at the position before it."""

    def question(self, inputs: dict[str, Tensor]) -> Question:
        return next_tokens(inputs)

    def _rows(self, train: Dataset) -> tuple[list[int], int]:
        labels = train.with_format("numpy")["labels"]
        return [np.count_nonzero(row[1:] >= 0) for row in labels], Parts(self.teacher).config.vocab_size


def goal(task: Task, settings: TaskTraining) -> Goal:
    """The task's metrics; beside them, in the history, the mean KL(teacher‖student)."""
    own = scored_by(task, settings)

    def score(found: EvalPrediction) -> dict[str, float]:
        said, tokens = np.asarray(found.predictions), np.asarray(found.label_ids)
        return own.score(found) | {"discrepancy": discrepancy(said, tokens)}

    return replace(own, score=score)
