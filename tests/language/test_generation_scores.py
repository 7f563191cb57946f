"""Generated responses: greedy, scored by ROUGE-L and by what a pattern matches, against plain loops."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.language.generation_scores import matches_exactly, rouge_l, score_generations
from stages.language.instructions import find_response
from stages.models.loading import load_checkpoint
from stages.settings import Evaluate
from stages.tasks.splits import read_split
from tests.makers.texts import SUMS


def list_subsequences(words: list[str]) -> set[tuple[str, ...]]:
    """All subsequences."""
    return {tuple(word for i, word in enumerate(words) if chosen >> i & 1) for chosen in range(2 ** len(words))}


def test_rouge_l_is_lins_example_and_a_slow_loops() -> None:
    """Lin 2004, section 3.1: of `police killed the gunman`, `police kill the gunman` has 3 words in order, of 4."""
    assert rouge_l("police kill the gunman", "Police killed the gunman.") == 0.75
    assert rouge_l("the gunman kill police", "police killed the gunman") == 0.5
    assert rouge_l("", "x") == rouge_l("y", "x") == 0.0
    draw = np.random.default_rng(0)
    for _ in range(20):
        first, second = (draw.choice(list("abc"), draw.integers(1, 7)).tolist() for _ in range(2))
        common = max(len(part) for part in list_subsequences(first) & list_subsequences(second))
        assert rouge_l(" ".join(first), " ".join(second)) == pytest.approx(2 * common / (len(first) + len(second)))


def test_the_part_that_must_be_equal_is_what_the_pattern_matches() -> None:
    assert matches_exactly(r"#### (\S+)", "so 3 + 4\n#### 7", "other words\n#### 7")
    assert not matches_exactly(r"#### (\S+)", "#### 8", "#### 7")
    assert not matches_exactly("#### ", "7", "7"), "where nothing matches nothing is equal"
    assert matches_exactly(r"\d+", "it is 7", "7 it is")


@pytest.mark.parametrize("causal_chain", ["sums"], indirect=True)
@pytest.mark.parametrize("stage", ["finetune", "factorize"])
def test_responses_are_the_likeliest_tokens_one_by_one(causal_chain: Path, stage: str) -> None:
    """Batches of padded prompts, against one prompt at a time without a cache."""
    from transformers import AutoTokenizer

    data, model = causal_chain / "prepare/data", load_checkpoint(causal_chain / stage / "model")
    tokenizer, rows = AutoTokenizer.from_pretrained(data / "tokenizer"), read_split(data, "validation")
    generated, references = [], []
    for row in rows:
        ids = row["input_ids"][: find_response(row["labels"])]
        references.append(tokenizer.decode(row["input_ids"][len(ids) :], skip_special_tokens=True))
        tokens: list[int] = []
        while len(tokens) < 12 and tokenizer.eos_token_id not in tokens:
            with torch.no_grad():
                tokens.append(int(model(input_ids=torch.tensor([ids + tokens])).logits[0, -1].argmax()))
        generated.append(tokenizer.decode(tokens, skip_special_tokens=True))
    settings = Evaluate(batch_size=4, generation={"examples": 100, "max_new_tokens": 12})
    scores = score_generations(model, rows, tokenizer, settings, SUMS.match, "test")
    pairs = list(zip(generated, references, strict=True))
    assert scores["examples"] == len(rows) == 10
    assert scores["rouge_l"] == pytest.approx(100 * np.mean([rouge_l(*pair) for pair in pairs]))
    assert scores["exact_match"] == pytest.approx(100 * np.mean([matches_exactly(SUMS.match, *pair) for pair in pairs]))
    assert scores["rouge_l"] > 0 or stage == "factorize"
