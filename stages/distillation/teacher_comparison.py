"""A causal language model on a split, alone or compared with its teacher."""

from collections import Counter

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.language.token_targets import next_token_targets, sum_per_example, token_nll
from stages.models.selective_head import logits_at_positions
from stages.objectives.distances import kl_divergence
from stages.objectives.top_k import agreement_rates
from stages.tasks.batches import iterate_batches
from stages.tasks.predictions import Predictions


def predict_tokens(
    model: PreTrainedModel,
    split: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    size: int,
    title: str,
    teacher: PreTrainedModel | None = None,
) -> tuple[Predictions, dict[str, float]]:
    """A model's predictions on a split, in its order; with a teacher also how far they agree, a mean over tokens.

    Returns:
        Sums of −log q(y) and of correct tokens (examples, 2), and numbers of tokens; and discrepancy (KL(p‖q), nats),
        cr_k, mor_k, and agreement, which is cr_1 (%).
    """
    sums, tokens = np.zeros((len(split), 2), np.float32), np.zeros(len(split), np.int64)
    rates: Counter[str] = Counter()
    for rows, batch in iterate_batches(split, tokenizer, size, title):
        targets = next_token_targets({name: tensor.to(model.device) for name, tensor in batch.items()})
        with torch.inference_mode():
            ours = logits_at_positions(model, targets.inputs, targets.positions)
            sums[rows] = sum_per_example(token_nll(ours, targets.tokens), targets.positions).cpu().numpy()
            if teacher is not None:
                theirs = logits_at_positions(teacher, targets.inputs, targets.positions)
                values = {"discrepancy": kl_divergence(ours.float(), theirs.float())} | agreement_rates(ours, theirs)
                rates.update({name: float(value.sum(dtype=torch.float64)) for name, value in values.items()})
        tokens[rows] = targets.positions.sum(1).cpu().numpy()
    predictions = Predictions(values=sums, targets=tokens)
    if teacher is None:
        return predictions, {}
    means = {name: value / int(tokens.sum()) for name, value in rates.items()}
    percent = {name.replace("@", "_"): 100 * value for name, value in means.items() if "@" in name}
    return predictions, {"agreement": percent["cr_1"], "discrepancy": means["discrepancy"]} | percent
