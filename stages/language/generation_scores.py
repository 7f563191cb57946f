"""Greedy generations after prompts, scored against the right responses.

rouge_l        F1 of the longest common subsequence of words, points; mean over examples
exact_match    how often the task's pattern matches the same in both, points
"""

import re
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.language.generate import generate_tokens
from stages.language.instructions import find_response
from stages.progress import track
from stages.settings import Evaluate


def score_generations(
    model: PreTrainedModel,
    split: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    settings: Evaluate,
    pattern: str,
    title: str,
) -> dict[str, Any]:
    """Scores on the first examples; of a chat the last response is generated.

    Args:
        pattern: regular expression of the part that must be equal; empty: exact_match is left out.
    """
    rows = split.select(range(min(settings.generation.examples, len(split))))
    starts = [find_response(labels) for labels in rows["labels"]]
    prompts = [ids[:start] for ids, start in zip(rows["input_ids"], starts, strict=True)]
    responses = [ids[start:] for ids, start in zip(rows["input_ids"], starts, strict=True)]
    references = tokenizer.batch_decode(responses, skip_special_tokens=True)
    pairs = list(zip(_generate(model, prompts, tokenizer, settings, title), references, strict=True))
    scores = {"examples": len(pairs), "rouge_l": 100 * sum(rouge_l(*pair) for pair in pairs) / len(pairs)}
    if pattern:
        scores["exact_match"] = 100 * sum(matches_exactly(pattern, *pair) for pair in pairs) / len(pairs)
    return scores


def rouge_l(generated: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, in lower case, from 0 to 1.

    Source: ROUGE-L (Lin 2004), section 3.1, with β = 1.
    """
    one, other = (re.findall(r"\w+", text.lower()) for text in (generated, reference))
    common = longest_common_subsequence(one, other)
    return 2 * common / (len(one) + len(other)) if common else 0.0


def longest_common_subsequence(one: list[str], other: list[str]) -> int:
    """Its length; a row of the dynamic program at a time."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for column, other_word in enumerate(other):
            row.append(before[column] + 1 if word == other_word else max(before[column + 1], row[column]))
    return row[-1]


def matches_exactly(pattern: str, generated: str, reference: str) -> bool:
    """Whether the pattern matches in both, and the same: its first group if it has one."""
    one, other = (re.search(pattern, text) for text in (generated, reference))
    if not one or not other:
        return False
    group = min(1, one.re.groups)
    return one[group] == other[group]


def _generate(
    model: PreTrainedModel,
    prompts: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    settings: Evaluate,
    title: str,
) -> list[str]:
    """The generated texts, in order; prompts of similar lengths share a batch."""
    order, size = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), settings.batch_size
    texts = [""] * len(prompts)
    for start in track(range(0, len(order), size), f"{title}, generation"):
        rows = order[start : start + size]
        tokens = generate_tokens(
            model, [prompts[i] for i in rows], tokenizer, max_new_tokens=settings.generation.max_new_tokens
        )
        for row, text in zip(rows, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
            texts[row] = text
    return texts
