"""Distillation on a corpus: student and teacher predict the same masked tokens of the same blocks."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel

from stages.corpora.masking import Masking, mask_tokens
from stages.distillation.lm_trainer import LMDistillationTrainer, mean_discrepancy, sum_comparison
from stages.language.token_targets import TokenTargets, masked_token_targets
from stages.models.selective_head import logits_at_positions
from stages.progress import track
from stages.tasks.metrics import token_metric
from stages.training.train import Validation

METRICS = ["accuracy", "perplexity", "discrepancy"]
"""accuracy: points; perplexity: exp of the mean −log q(y); discrepancy: mean KL(teacher‖student), nats per token."""


class MaskedLMTrainer(LMDistillationTrainer):
    """Masks each block anew in every epoch; the masked tokens are predicted.

    Shapes: input_ids, starts (batch, tokens); in validation masked already, with labels (batch, tokens).
    """

    setting = "prune.objectives"

    def __init__(self, model: PreTrainedModel, *args: Any, masking: Masking, **kwargs: Any) -> None:
        self.masking = masking
        super().__init__(model, *args, **kwargs)
        self.columns.append("starts")

    def draw_targets(self, inputs: dict[str, Tensor], index: Tensor) -> TokenTargets:
        epoch = int(self.state.epoch or 0)
        return masked_token_targets(*mask_tokens(inputs["input_ids"], inputs["starts"], index, epoch, self.masking))

    def make_targets(self, inputs: dict[str, Tensor]) -> TokenTargets:
        return masked_token_targets(inputs["input_ids"], inputs["labels"])


def compute_masked_lm_scores(sums: np.ndarray, tokens: np.ndarray) -> dict[str, float]:
    """METRICS of `sum_comparison` of all blocks, (blocks, 3), and their masked tokens, (blocks,)."""
    loss, hits, _ = sums.sum(0, dtype=float)
    return {
        "accuracy": 100 * float(token_metric("accuracy", loss, hits, tokens.sum())),
        "perplexity": float(token_metric("perplexity", loss, hits, tokens.sum())),
        "discrepancy": mean_discrepancy(sums, tokens),
    }


def validate_masked_lm() -> Validation:
    """By METRICS on the validation blocks; the last checkpoint is kept."""

    def compute_metrics(found: EvalPrediction) -> dict[str, float]:
        return compute_masked_lm_scores(np.asarray(found.predictions), np.asarray(found.label_ids))

    return Validation(metrics=METRICS, compute_metrics=compute_metrics, keep_best=False)


def score_masked_lm(
    model: PreTrainedModel, teacher: PreTrainedModel, blocks: Dataset, batch_size: int, title: str
) -> dict[str, float]:
    """METRICS of a model compared with its teacher on the validation blocks, in float32."""
    sums, tokens = [], []
    batches = blocks.with_format("torch").iter(batch_size)
    for rows in track(batches, title, total=-(-len(blocks) // batch_size)):
        targets = masked_token_targets(*(rows[name].long().to(model.device) for name in ("input_ids", "labels")))
        with torch.inference_mode():
            ours, theirs = (logits_at_positions(each, targets.inputs, targets.positions) for each in (model, teacher))
        sums.append(sum_comparison(ours, theirs, targets).cpu().numpy())
        tokens.append(targets.positions.sum(1).cpu().numpy())
    return compute_masked_lm_scores(np.concatenate(sums), np.concatenate(tokens))
