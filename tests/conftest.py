"""Fixtures that more than one test file needs: a tiny random model, a tiny task, the folder of real data."""

import csv
import os
import random
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT (2 layers x 32) with its tokenizer, as a folder in hub layout."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("tiny_model")
    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator([text for text, _ in reviews(200)], vocab_size=200, show_progress=False)
    words.save_model(str(folder))
    tokenizer = BertTokenizer.from_pretrained(folder, model_max_length=64)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.1,  # such a narrow model learns slowly from 0.02
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task `reviews` in a folder: train.csv (160 rows), validation.csv (64), columns text and label."""
    folder = tmp_path_factory.mktemp("tiny_data")
    rows = reviews(224)
    for split, part in {"train": rows[:160], "validation": rows[160:]}.items():
        path = folder / "reviews" / f"{split}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="", encoding="utf8") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder named by MAKD_REAL_DATA (default: ../shared/data); skips where it is absent."""
    folder = Path(os.environ.get("MAKD_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; MAKD_REAL_DATA names the folder")
    return folder


def reviews(count: int) -> list[tuple[str, str]]:
    """Short sentences of different lengths whose label one word decides; the same ones at every call."""
    draw = random.Random(7)
    things = ["film", "plot", "cast", "music", "ending", "dialogue", "camera work"]
    words = {"good": ["great", "lovely", "brilliant", "warm"], "bad": ["dull", "awful", "clumsy", "cold"]}
    rows = []
    for _ in range(count):
        label = draw.choice(sorted(words))
        filler = " ".join(draw.choices(["really", "in the end", "as a whole", "to me", "again"], k=draw.randint(0, 4)))
        rows.append((f"the {draw.choice(things)} is {draw.choice(words[label])} {filler}".strip(), label))
    return rows
