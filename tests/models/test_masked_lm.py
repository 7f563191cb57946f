"""The masked-LM form of an encoder: a head that the checkpoint lacks is trained; logits at chosen positions."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from stages.models.masked_lm import load_masked_lm, train_head
from stages.models.pretrained import load_tokenizer
from stages.models.selective_head import logits_at_positions
from stages.settings import Base, HeadTraining
from tests.makers.checkpoints import save_masked_lm
from tests.makers.texts import make_reviews

TEXTS = [text for text, _ in make_reviews(60)]


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with a masked-LM head, both trained on short reviews, as a folder in hub layout."""
    return save_masked_lm(tmp_path_factory.mktemp("masked_lm"), tiny_model)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "electra", "distilbert", "deberta-v2"])
def test_logits_at_a_position_are_the_models_own(family: str) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "distilbert":
        sizes = {"vocab_size": 50, "dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 4}
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **sizes)).eval()
    inputs = {"input_ids": torch.randint(5, 50, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    positions = torch.rand(3, 7) < 0.4
    whole = model(**inputs).logits
    torch.testing.assert_close(logits_at_positions(model, inputs, positions), whole[positions])
    torch.testing.assert_close(model(**inputs).logits, whole, msg="the model is left as it was")


def test_a_head_is_made_only_where_the_checkpoint_has_none(tiny_model: Path, masked_lm: Path) -> None:
    assert load_masked_lm(Base(model=str(masked_lm)))[1] == frozenset()
    model, fresh = load_masked_lm(Base(model=str(tiny_model)))
    assert "cls.predictions.transform.dense.weight" in fresh
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, "the decoder is tied"


@pytest.mark.parametrize("trains", ["head", "all"])
def test_the_body_is_trained_only_if_set(trains: str, tiny_model: Path) -> None:
    model, fresh = load_masked_lm(Base(model=str(tiny_model)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokenizer = load_tokenizer(Base(model=str(tiny_model)))
    settings = HeadTraining(steps=3, trains=trains)
    train_head(model, fresh, tokenizer, tokenizer(TEXTS)["input_ids"], settings, seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name in fresh for name in changed)
    assert any(name.startswith("bert.") for name in changed) == (trains == "all")


def test_a_trained_head_uses_the_context(masked_lm: Path) -> None:
    """A head that only knew how frequent each token is would have the tokens' entropy as its loss."""
    model, _ = load_masked_lm(Base(model=str(masked_lm)))
    tokenizer = AutoTokenizer.from_pretrained(masked_lm)
    losses, counts = [], Counter()
    for text in TEXTS:
        ids = torch.tensor(tokenizer(text)["input_ids"])
        positions = torch.arange(1, len(ids) - 1)
        rows = ids.repeat(len(positions), 1)
        rows[range(len(positions)), positions] = tokenizer.mask_token_id
        logits = model.cpu()(input_ids=rows).logits[range(len(positions)), positions]
        losses += torch.nn.functional.cross_entropy(logits, ids[1:-1], reduction="none").tolist()
        counts.update(ids[1:-1].tolist())
    shares = np.array(list(counts.values())) / counts.total()
    assert np.mean(losses) < 0.7 * -(shares * np.log(shares)).sum()
