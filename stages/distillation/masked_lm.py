"""Distillation on a corpus: student and teacher guess the same masked tokens of the same blocks."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel

from stages.corpora.masking import Masking, mask
from stages.distillation.language_model import LanguageModelTrainer, discrepancy, sums
from stages.language.scores import Question
from stages.models.heads import logits_at
from stages.tasks.metrics import of_tokens
from stages.training import Goal

METRICS = ["accuracy", "perplexity", "discrepancy"]
"""accuracy: points; perplexity: exp of the mean −log q(y); discrepancy: mean KL(teacher‖student), nats per token."""


class MaskedLMTrainer(LanguageModelTrainer):
    """Masks each block anew in every epoch; asked for are the masked tokens.

    Shapes: input_ids, starts (batch, tokens); in validation masked already, with labels (batch, tokens).
    """

    setting = "prune.objectives"

    def __init__(self, model: PreTrainedModel, *args: Any, masking: Masking, **kwargs: Any) -> None:
        self.masking = masking
        super().__init__(model, *args, **kwargs)
        self.columns.append("starts")

    def drawn(self, inputs: dict[str, Tensor], index: Tensor) -> Question:
        epoch = int(self.state.epoch or 0)
        return masked_tokens(*mask(inputs["input_ids"], inputs["starts"], index, epoch, self.masking))

    def question(self, inputs: dict[str, Tensor]) -> Question:
        return masked_tokens(inputs["input_ids"], inputs["labels"])


def masked_tokens(ids: Tensor, labels: Tensor) -> Question:
    """Of masked blocks and what was there, both (batch, tokens), labels negative where nothing is asked."""
    where = labels >= 0
    return Question({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, where, labels[where])


def scores(said: np.ndarray, tokens: np.ndarray) -> dict[str, float]:
    """METRICS of `sums` of all blocks, (blocks, 3), and their masked tokens, (blocks,)."""
    loss, hits, _ = said.sum(0, dtype=float)
    return {
        "accuracy": 100 * float(of_tokens("accuracy", loss, hits, tokens.sum())),
        "perplexity": float(of_tokens("perplexity", loss, hits, tokens.sum())),
        "discrepancy": discrepancy(said, tokens),
    }


def goal() -> Goal:
    """A training that ends with its last checkpoint and reports METRICS on the validation blocks."""

    def score(found: EvalPrediction) -> dict[str, float]:
        return scores(np.asarray(found.predictions), np.asarray(found.label_ids))

    return Goal(metrics=METRICS, score=score, best=False)


def measure(
    model: PreTrainedModel, teacher: PreTrainedModel, blocks: Dataset, batch_size: int, title: str
) -> dict[str, float]:
    """METRICS of a model beside its teacher on the validation blocks, in float32."""
    from tqdm import tqdm

    said, tokens = [], []
    for rows in tqdm(blocks.with_format("torch").iter(batch_size), total=-(-len(blocks) // batch_size), desc=title):
        asked = masked_tokens(*(rows[name].long().to(model.device) for name in ("input_ids", "labels")))
        with torch.inference_mode():
            ours, theirs = (logits_at(each, asked.inputs, asked.where) for each in (model, teacher))
        said.append(sums(ours, theirs, asked).cpu().numpy())
        tokens.append(asked.where.sum(1).cpu().numpy())
    return scores(np.concatenate(said), np.concatenate(tokens))
