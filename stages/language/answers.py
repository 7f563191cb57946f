"""What a language model writes after a prompt, always its likeliest next token, beside what should stand there.

rouge_l        F1 of the longest common subsequence of words, points; mean over examples
exact_match    how often the task's pattern finds the same in both, points
"""

import re
from typing import TYPE_CHECKING, Any

from stages.language.instructions import answer
from stages.language.writing import continued
from stages.settings import Evaluate

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def answers(
    model: "PreTrainedModel",
    split: "Dataset",
    tokenizer: "PreTrainedTokenizerBase",
    settings: Evaluate,
    pattern: str,
    title: str,
) -> dict[str, Any]:
    """Scores of the first examples' answers; of a chat the last turn is answered.

    Args:
        pattern: regular expression of the part that must be the same; empty: exact_match is left out.
    """
    rows = split.select(range(min(settings.answers.examples, len(split))))
    starts = [answer(labels) for labels in rows["labels"]]
    prompts = [ids[:start] for ids, start in zip(rows["input_ids"], starts, strict=True)]
    wanted = [ids[start:] for ids, start in zip(rows["input_ids"], starts, strict=True)]
    right = tokenizer.batch_decode(wanted, skip_special_tokens=True)
    written = _written(model, prompts, tokenizer, settings, title)
    pairs = list(zip(written, right, strict=True))
    found = {"examples": len(pairs), "rouge_l": 100 * sum(rouge_l(*pair) for pair in pairs) / len(pairs)}
    if pattern:
        found["exact_match"] = 100 * sum(matches(pattern, *pair) for pair in pairs) / len(pairs)
    return found


def rouge_l(written: str, right: str) -> float:
    """F1 of the longest common subsequence of words, in lower case, from 0 to 1.

    Source: ROUGE-L (Lin 2004), section 3.1, with β = 1.
    """
    one, other = (re.findall(r"\w+", text.lower()) for text in (written, right))
    common = subsequence(one, other)
    return 2 * common / (len(one) + len(other)) if common else 0.0


def subsequence(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence; a row of the dynamic program at a time."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for column, its in enumerate(other):
            row.append(before[column] + 1 if word == its else max(before[column + 1], row[column]))
    return row[-1]


def matches(pattern: str, written: str, right: str) -> bool:
    """Does the pattern find the same in both, and anything at all? What counts is its first group, if it has one."""
    one, other = (re.search(pattern, text) for text in (written, right))
    if not one or not other:
        return False
    group = min(1, one.re.groups)
    return one[group] == other[group]


def _written(
    model: "PreTrainedModel",
    prompts: list[list[int]],
    tokenizer: "PreTrainedTokenizerBase",
    settings: Evaluate,
    title: str,
) -> list[str]:
    """The model's answers, in order; prompts of similar lengths are answered together."""
    from tqdm import tqdm

    order, size = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), settings.batch_size
    found = [""] * len(prompts)
    for start in tqdm(range(0, len(order), size), desc=f"{title}, answers", unit="batch"):
        rows = order[start : start + size]
        tokens = continued(model, [prompts[i] for i in rows], tokenizer, new_tokens=settings.answers.new_tokens)
        for row, text in zip(rows, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
            found[row] = text
    return found
