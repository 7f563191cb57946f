"""A masked language model of any encoder; where the checkpoint has no masked-LM head, one is made and trained.

    model, fresh = load_masked_lm(base)
    if fresh:
        warm_up(model, fresh, tokenizer, tokens, settings, seed)

The decoder is tied to the word embeddings: a fresh head is only a dense layer, a norm and a bias.
"""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from stages.models.base import from_hub
from stages.models.heads import logits_at
from stages.settings import BadInput, Base, Warmup

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_masked_lm(base: Base, *, setting: str = "base.model") -> tuple["PreTrainedModel", frozenset[str]]:
    """The model on the GPU if there is one, and the names of its head's parameters that no checkpoint gave.

    A fresh head is drawn from torch's generator: set the seed before.

    Raises:
        BadInput: the family has no masked-LM form, or the checkpoint lacks more than the head.
    """
    import torch
    from transformers import AutoModelForMaskedLM

    try:
        model, report = from_hub(AutoModelForMaskedLM.from_pretrained, base, setting=setting, output_loading_info=True)
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


def warm_up(
    model: "PreTrainedModel",
    fresh: Collection[str],
    tokenizer: "PreTrainedTokenizerBase",
    tokens: list[list[int]],
    settings: Warmup,
    seed: int,
) -> list[float]:
    """Trains the fresh head, and the body with it if the settings say so, to guess masked tokens (Devlin et al. 2019).

    Args:
        tokens: token ids of each text, special ones included.

    Returns:
        The loss of each step, in nats per masked token.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import get_linear_schedule_with_warmup

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(settings.trains == "all" or name in fresh)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, settings.steps // 10, settings.steps)
    losses = []
    torch.manual_seed(seed)
    model.train()
    if settings.trains == "head":
        model.base_model.eval()  # as the teacher will see it: nothing dropped in what stays as it is
    for batch in _masked_batches(tokenizer, tokens, settings, seed):
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        answers = inputs.pop("labels")
        where = answers >= 0
        loss = cross_entropy(logits_at(model, inputs, where), answers[where])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    model.eval().requires_grad_(True)
    return torch.stack(losses).tolist()


def _masked_batches(
    tokenizer: "PreTrainedTokenizerBase", tokens: list[list[int]], settings: Warmup, seed: int
) -> Iterator[dict[str, "Tensor"]]:
    """`steps` batches of random texts, similar in length, with 15 % of the tokens to be guessed (labels -100 else)."""
    import numpy as np
    from tqdm import tqdm
    from transformers import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=seed)
    draw = np.random.default_rng(seed)
    batches: list[list[int]] = []
    for _ in tqdm(range(settings.steps), desc="masked-LM warm-up", unit="step"):
        if not batches:
            drawn = sorted(draw.integers(len(tokens), size=(8 * settings.batch_size)), key=lambda row: len(tokens[row]))
            batches = draw.permutation(np.reshape(drawn, (8, -1))).tolist()
        batch = collate([{"input_ids": tokens[row]} for row in batches.pop()])
        if (batch["labels"] >= 0).any():  # very short texts may have nothing masked
            yield dict(batch)
