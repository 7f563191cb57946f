"""Tiny models saved as folders in hub layout, beside those of tests/conftest.py."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from stages.models.masked_lm import load_masked_lm, train_head
from stages.models.pretrained import load_tokenizer
from stages.settings import Base, HeadTraining
from tests.makers.texts import make_reviews


def save_masked_lm(folder: Path, encoder: Path) -> Path:
    """The encoder with a masked-LM head, both trained on short reviews."""
    base = Base(model=str(encoder))
    torch.manual_seed(0)
    model, fresh = load_masked_lm(base)
    tokenizer = load_tokenizer(base)
    tokens = tokenizer([text for text, _ in make_reviews(200)])["input_ids"]
    train_head(model, fresh, tokenizer, tokens, HeadTraining(steps=200, learning_rate=3e-3), seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_roberta(folder: Path) -> Path:
    """A RoBERTa in name and tokenizer: byte-level pieces, <s> and </s>, a mask; without weights."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaTokenizer

    words = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    texts = [text for text, _ in make_reviews(300)]
    words.train_from_iterator(texts, vocab_size=300, special_tokens=special, show_progress=False)
    words.save_model(str(folder))
    tokenizer = RobertaTokenizer.from_pretrained(folder, model_max_length=64)
    RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=66).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_changed_tokenizer(model: Path, folder: Path, **changes: Any) -> Path:
    """The model's tokenizer with other properties, and its config; without weights."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    AutoConfig.from_pretrained(model).save_pretrained(folder)
    return folder
