"""The masked-LM form of any encoder; where the checkpoint has no masked-LM head, one is made and trained.

    model, fresh = load_masked_lm(base)
    if fresh:
        train_head(model, fresh, tokenizer, tokens, settings, seed)

The decoder is tied to the word embeddings: a fresh head is only a dense layer, a norm and a bias.
"""

from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_linear_schedule_with_warmup,
)

from stages.errors import BadInput
from stages.models.pretrained import load_from_hub
from stages.models.selective_head import logits_at_positions
from stages.progress import track
from stages.settings import Base, HeadTraining


def load_masked_lm(base: Base, *, setting: str = "base.model") -> tuple[PreTrainedModel, frozenset[str]]:
    """The model on the GPU if there is one, and the names of its head's parameters that are not in the checkpoint.

    A fresh head is drawn from torch's generator: set the seed before.

    Raises:
        BadInput: the family has no masked-LM form, or the checkpoint lacks more than the head.
    """
    try:
        model, report = load_from_hub(
            AutoModelForMaskedLM.from_pretrained, base, setting=setting, output_loading_info=True
        )
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"{setting} {base.model} has no masked-LM form; give an encoder such as BERT, RoBERTa or ELECTRA"
        ) from error
    fresh = frozenset(report["missing_keys"])
    if lacking := sorted(name for name in fresh if name.startswith(f"{model.base_model_prefix}.")):
        raise BadInput(f"{setting} {base.model} has no weights for {lacking[0]}; give a checkpoint with all layers")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), fresh


def train_head(
    model: PreTrainedModel,
    fresh: Collection[str],
    tokenizer: PreTrainedTokenizerBase,
    tokens: list[list[int]],
    settings: HeadTraining,
    seed: int,
) -> list[float]:
    """Trains the fresh head, and the body with it if the settings say so, as a masked LM (Devlin et al. 2019).

    Args:
        tokens: token ids of each text, special ones included.

    Returns:
        The loss of each step, in nats per masked token.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(settings.trains == "all" or name in fresh)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, settings.steps // 10, settings.steps)
    losses = []
    torch.manual_seed(seed)
    model.train()
    if settings.trains == "head":
        model.base_model.eval()  # the body as the teacher will have it: no dropout in what stays as it is
    for batch in _masked_batches(tokenizer, tokens, settings, seed):
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        labels = inputs.pop("labels")
        masked = labels >= 0
        loss = cross_entropy(logits_at_positions(model, inputs, masked), labels[masked])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    model.eval().requires_grad_(True)
    return torch.stack(losses).tolist()


def _masked_batches(
    tokenizer: PreTrainedTokenizerBase, tokens: list[list[int]], settings: HeadTraining, seed: int
) -> Iterator[dict[str, Tensor]]:
    """`steps` batches of random texts, similar in length, with 15 % of the tokens masked (labels -100 elsewhere)."""
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=seed)
    rng = np.random.default_rng(seed)
    batches: list[list[int]] = []
    for _ in track(range(settings.steps), "masked-LM head", unit="step"):
        if not batches:
            drawn = sorted(rng.integers(len(tokens), size=(8 * settings.batch_size)), key=lambda row: len(tokens[row]))
            batches = rng.permutation(np.reshape(drawn, (8, -1))).tolist()
        batch = collate([{"input_ids": tokens[row]} for row in batches.pop()])
        if (batch["labels"] >= 0).any():  # very short texts may have nothing masked
            yield dict(batch)
