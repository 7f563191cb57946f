"""Distillation on a corpus: student and teacher guess the same masked tokens of the same blocks."""

import math
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel

from stages.corpora.masking import Masking, mask
from stages.distillation.distances import divergence
from stages.distillation.trainer import DistillationTrainer
from stages.models.masked_lm import MaskedHead, logits_at
from stages.training import Goal

METRICS = ["accuracy", "perplexity", "discrepancy"]
"""accuracy: points; perplexity: exp of the mean −log q(y); discrepancy: mean KL(teacher‖student), nats per token."""


class MaskedLMTrainer(DistillationTrainer):
    """Masks each block anew in every epoch; the objectives' logits and labels are those of the masked tokens.

    Shapes: input_ids, starts (batch, tokens); the logits that objectives see (masked tokens, vocabulary).
    """

    setting = "prune.objectives"

    def __init__(
        self, model: PreTrainedModel, *args: Any, teacher: PreTrainedModel, masking: Masking, **kwargs: Any
    ) -> None:
        self.masking, self.heads = masking, [MaskedHead(model), MaskedHead(teacher)]
        super().__init__(model, *args, teacher=teacher, **kwargs)
        self.columns.append("starts")

    def _read(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        index, epoch = inputs.pop("index"), int(self.state.epoch or 0)
        ids, labels = mask(inputs["input_ids"], inputs.pop("starts"), index, epoch, self.masking)
        asked = labels >= 0
        return self._at(ids, labels), {"labels": labels[asked], "rows": asked.nonzero()[:, 0], "index": index}

    def _at(self, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Inputs of both models, whose heads answer at the masked tokens alone."""
        for head in self.heads:
            head.where = labels >= 0
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def close(self) -> None:
        """Gives both models back as they were."""
        for part in (*self.heads, self.of_student, self.of_teacher):
            part.close()

    def prediction_step(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any):
        """For each block, in place of logits, what `sums` says of it."""
        inputs = self._prepare_inputs(inputs)
        with torch.inference_mode(), self.compute_loss_context_manager():
            read = self._at(inputs["input_ids"], inputs["labels"])
            ours, theirs = (m(**read).logits for m in (model, self.teacher))
        return None, sums(ours, theirs, inputs["labels"]), inputs["labels"][:, 0]


def sums(ours: Tensor, theirs: Tensor, labels: Tensor) -> Tensor:
    """For each block the sums over its masked tokens of −log q(y), hits, KL(p‖q) and 1; (batch, 4).

    Shapes: logits q and p (masked tokens, vocabulary), labels (batch, tokens), negative where nothing is asked.
    """
    answers, block = labels[labels >= 0], (labels >= 0).nonzero()[:, 0]
    ours, theirs = ours.float(), theirs.float()
    loss = nn.functional.cross_entropy(ours, answers, reduction="none")
    each = [loss, (ours.argmax(-1) == answers).float(), divergence(ours, theirs), torch.ones_like(loss)]
    return loss.new_zeros(len(labels), len(each)).index_add_(0, block, torch.stack(each, dim=1))


def scores(found: np.ndarray) -> dict[str, float]:
    """METRICS of what `sums` said of all blocks, (blocks, 4)."""
    loss, hits, distance, tokens = np.asarray(found, dtype=np.float64).sum(0)
    return {"accuracy": 100 * hits / tokens, "perplexity": math.exp(loss / tokens), "discrepancy": distance / tokens}


def goal() -> Goal:
    """A training that ends with its last checkpoint and reports METRICS on the validation blocks."""

    def score(found: EvalPrediction) -> dict[str, float]:
        return scores(np.asarray(found.predictions))

    return Goal(metrics=METRICS, score=score, best=False)


def measure(
    model: PreTrainedModel, teacher: PreTrainedModel, blocks: Dataset, batch_size: int, title: str
) -> dict[str, float]:
    """METRICS of a model beside its teacher on the validation blocks, in float32."""
    from tqdm import tqdm

    found = []
    for rows in tqdm(blocks.with_format("torch").iter(batch_size), total=-(-len(blocks) // batch_size), desc=title):
        ids, labels = (rows[name].long().to(model.device) for name in ("input_ids", "labels"))
        read = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.inference_mode():
            ours, theirs = (logits_at(each, read, labels >= 0) for each in (model, teacher))
        found.append(sums(ours, theirs, labels).cpu().numpy())
    return scores(np.concatenate(found))
