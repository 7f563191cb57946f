"""Distillation on text: student and teacher guess the next token of the same examples.

With `distill.on_policy` a share of the batches is the student's own writing (GKD, Agarwal et al. 2024, algorithm 1):
text as it will meet it when it writes by itself, its own errors included, which the teacher then judges.
"""

from collections.abc import Collection
from dataclasses import replace
from random import Random

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction

from stages.distillation.language_model import LanguageModelTrainer, discrepancy
from stages.distillation.objectives import Objective
from stages.language.scores import Question, next_tokens
from stages.language.writing import begun, continued
from stages.models.anatomy import Parts
from stages.settings import TaskTraining
from stages.tasks import IGNORED, Task
from stages.training import Goal, scored_by


class CausalLMTrainer(LanguageModelTrainer):
    """Asked for are the labels of packed text or of responses, each at the position before it.

    Inner states, too, are compared at these positions alone.
    """

    writes = False
    """Whether the student writes the batch at hand."""

    def question(self, inputs: dict[str, Tensor]) -> Question:
        return next_tokens(inputs)

    def drawn(self, inputs: dict[str, Tensor], index: Tensor) -> Question:
        return self.question(self._written(inputs, index) if self.writes else inputs)

    def _read(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        inputs, known = super()._read(inputs)
        return inputs, known | {"asked": self.heads[0].where}

    def _counting(self, progress: float) -> tuple[Collection[int] | None, dict[str, Objective]]:
        """Where the student writes, what looks at labels alone does not count: there are none but its own tokens.

        All batches of an optimizer step are written, in all processes, or none: a function of seed and step alone.
        """
        layers, terms = super()._counting(progress)
        compared = {name: term for name, term in terms.items() if term.compares}
        policy = self.settings.on_policy
        self.writes = policy is not None and bool(compared) and self._random().random() < policy.share
        return layers, compared if self.writes else terms

    def _written(self, inputs: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
        """The batch with what the student writes after its prompts, a function of seed, step, batch and weights."""
        policy, model = self.settings.on_policy, self.model.model
        real = inputs["attention_mask"].bool()
        texts = [[inputs[name][i, row].tolist() for name in ("input_ids", "labels")] for i, row in enumerate(real)]
        prompts = [begun(*text, policy.new_tokens) for text in texts]
        self.heads[0].where = None
        model.eval()
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []), self.accelerator.autocast():
            torch.manual_seed(self._random(int(index[0])).getrandbits(63))
            said = continued(
                model, prompts, self.processing_class, new_tokens=policy.new_tokens, temperature=policy.temperature
            )
        model.train()
        self._add({"on_policy/tokens": real.new_tensor(sum(map(len, said)) / len(said), dtype=torch.float)})
        rows = [
            {"input_ids": given + own, "labels": [IGNORED] * len(given) + own}
            for given, own in zip(prompts, said, strict=True)
        ]
        return self._prepare_inputs(dict(self.data_collator(rows)))

    def _random(self, *place: int) -> Random:
        """The draws of this step, or of a place in it: the same wherever a training was resumed."""
        return Random(f"{self.args.seed} {self.state.global_step} {place}")

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
