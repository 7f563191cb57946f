"""Text generation after prompts, by the library's `generate` with its KV cache."""

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.language.instructions import find_response
from stages.schema.task import IGNORED


def take_prompt(ids: list[int], labels: list[int], new_tokens: int) -> list[int]:
    """What comes before the last response; of plain text all but the last `new_tokens`, and one token at least."""
    return ids[: find_response(labels) if IGNORED in labels else max(1, len(ids) - new_tokens)]


def generate_tokens(
    model: PreTrainedModel,
    prompts: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
) -> list[list[int]]:
    """The tokens that come after each prompt, the one that ends the text included.

    Args:
        prompts: token ids, together in one batch.
        max_new_tokens: most to generate; fewer where the model can read no more.
        temperature: logits are divided by it before a token is drawn, from all of them; 0: greedy.
    """
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
    longest = batch["input_ids"].shape[1]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or longest + max_new_tokens
    ends = _list_end_tokens(model, tokenizer)
    config = GenerationConfig(
        max_new_tokens=min(max_new_tokens, positions - longest),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends,
        **({"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}),
    )
    own = model.generation_config
    model.generation_config = GenerationConfig()  # `generate` would add its settings, such as a repetition penalty
    try:
        generated = model.generate(**batch, generation_config=config)[:, longest:].tolist()
    finally:
        model.generation_config = own
    return [_cut_at_end(tokens, ends) for tokens in generated]


def _cut_at_end(tokens: list[int], ends: list[int]) -> list[int]:
    """Up to the first token that ends a text; padding comes after it."""
    return tokens[: next((count for count, token in enumerate(tokens, 1) if token in ends), len(tokens))]


def _list_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a text: the tokenizer's, and those of the model's generation config, such as a turn's end."""
    named = model.generation_config.eos_token_id
    return sorted({tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None})
