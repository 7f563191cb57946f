"""Documents in, tokens out: many documents at a time, and never a whole corpus in memory."""

from collections.abc import Iterable, Iterator

import numpy as np
from transformers import PreTrainedTokenizerBase

UNKNOWN = "<unk>"
"""How WikiText and its like write a word that was removed."""
DOCUMENTS, CHARACTERS = 1000, 1_000_000
"""What is tokenized at a time."""


def batch_texts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts, as many as are tokenized together."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) == DOCUMENTS or size >= CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def tokenize_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (int32) of all texts in a row, the token `end` after each, and where a word begins (bool): both (tokens,).

    A special token is a word of its own; `<unk>` in a text is the tokenizer's unknown token.

    Args:
        tokenizer: neither pads nor truncates; its own threads share the work.
    """
    if tokenizer.unk_token_id not in (None, end):  # GPT-2 has one token for both
        texts = [text.replace(UNKNOWN, tokenizer.unk_token) for text in texts]
    ids, starts = [np.zeros(0, np.int32)], [np.zeros(0, bool)]
    for text in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False):
        if text.ids:
            ids.append(np.array([*text.ids, end], np.int32))
            starts.append(np.diff(text.word_ids, prepend=-1, append=-1) != 0)
    return np.concatenate(ids), np.concatenate(starts)
