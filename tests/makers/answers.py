"""What the counting model of services.py answers, counted by hand."""

import random

import numpy as np
import pytest


def count_words(text: str) -> list[float]:
    """The model's logits: how often `dull` is among the first 16 words, and `fine`."""
    words = text.split()[:16]
    return [float(words.count("dull")), float(words.count("fine"))]


def compute_scores(text: str) -> dict[str, float]:
    """Label -> its probability."""
    odds = np.exp(count_words(text))
    return dict(zip(("negative", "positive"), odds / odds.sum(), strict=True))


def check_answer(answer: list[dict], text: str) -> None:
    """All labels, the best first, with their probabilities."""
    assert {row["label"]: row["score"] for row in answer} == pytest.approx(compute_scores(text), abs=1e-6)
    assert answer[0]["score"] >= answer[1]["score"]


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Of 1 to 30 words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(["a", "film", "fine", "dull"], k=draw.randint(1, 30))) for _ in range(count)]
