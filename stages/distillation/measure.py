"""A causal language model on a split, alone or beside its teacher."""

from collections import Counter

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distillation.agreement import agreement
from stages.distillation.distances import divergence
from stages.language.scores import answered, next_tokens, summed
from stages.models.heads import logits_at
from stages.tasks.batches import batches


def measured(
    model: PreTrainedModel,
    split: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    size: int,
    title: str,
    teacher: PreTrainedModel | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """What a model says of a split, in its order; beside a teacher also how far they agree, a mean over tokens.

    Returns:
        Sums of −log q(y) and of hits (examples, 2), the tokens asked for (examples,); and discrepancy (KL(p‖q), nats),
        cr_k, mor_k, and agreement, which is cr_1 (%).
    """
    said, tokens = np.zeros((len(split), 2), np.float32), np.zeros(len(split), np.int64)
    beside: Counter[str] = Counter()
    for rows, batch in batches(split, tokenizer, size, title):
        asked = next_tokens({name: tensor.to(model.device) for name, tensor in batch.items()})
        with torch.inference_mode():
            ours = logits_at(model, asked.inputs, asked.where)
            said[rows] = summed(answered(ours, asked.answers), asked.where).cpu().numpy()
            if teacher is not None:
                theirs = logits_at(teacher, asked.inputs, asked.where)
                found = {"discrepancy": divergence(ours.float(), theirs.float())} | agreement(ours, theirs)
                beside.update({name: float(values.sum(dtype=torch.float64)) for name, values in found.items()})
        tokens[rows] = asked.where.sum(1).cpu().numpy()
    means = {name: value / int(tokens.sum()) for name, value in beside.items()}
    rates = {name.replace("@", "_"): 100 * value for name, value in means.items() if "@" in name}
    shown = {"agreement": rates["cr_1"], "discrepancy": means["discrepancy"]} | rates if means else {}
    return said, tokens, shown
