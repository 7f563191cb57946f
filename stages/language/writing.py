"""What a causal language model writes after prompts, by the library's `generate` with its cache."""

from typing import TYPE_CHECKING

from stages.language.instructions import answer
from stages.tasks import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def begun(ids: list[int], labels: list[int], new_tokens: int) -> list[int]:
    """What stands before the last response; of plain text all but the last `new_tokens`, and one token at least."""
    return ids[: answer(labels) if IGNORED in labels else max(1, len(ids) - new_tokens)]


def continued(
    model: "PreTrainedModel",
    prompts: list[list[int]],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    new_tokens: int,
    temperature: float = 0.0,
) -> list[list[int]]:
    """The tokens that come after each prompt, the one that ends the text included.

    Args:
        prompts: token ids, together in one batch.
        new_tokens: most to write; fewer where the model can read no more.
        temperature: logits are divided by it before a token is drawn, from all of them; 0 takes the likeliest.
    """
    from transformers import GenerationConfig

    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
    longest = batch["input_ids"].shape[1]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or longest + new_tokens
    ends = _ends(model, tokenizer)
    config = GenerationConfig(
        max_new_tokens=min(new_tokens, positions - longest),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends,
        **({"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}),
    )
    own = model.generation_config
    model.generation_config = GenerationConfig()  # `generate` would add what it names, such as a repetition penalty
    try:
        written = model.generate(**batch, generation_config=config)[:, longest:].tolist()
    finally:
        model.generation_config = own
    return [_ended(tokens, ends) for tokens in written]


def _ended(tokens: list[int], ends: list[int]) -> list[int]:
    """Up to the first token that ends a text; padding stands behind it."""
    return tokens[: next((place for place, token in enumerate(tokens, 1) if token in ends), len(tokens))]


def _ends(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those that the model's authors name, such as a turn's end."""
    named = model.generation_config.eos_token_id
    return sorted({tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None})
