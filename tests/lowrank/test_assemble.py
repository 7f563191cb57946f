"""Low-rank models made of a dense model and factors, at the rank at which they are equal."""

from pathlib import Path

import pytest
import torch

from stages.lowrank.assemble import assemble_low_rank
from stages.models.anatomy import ModelParts
from stages.models.families import FAMILIES
from stages.models.loading import load_checkpoint
from stages.models.modeling import LowRankModel, replace_conv1d
from tests.makers import decoders
from tests.makers.decoders import make_decoder, read_token_logits
from tests.makers.encoders import make_encoder
from tests.makers.factors import decompose_matrices


@pytest.mark.parametrize("family", sorted(name for name, row in FAMILIES.items() if not row.causal))
def test_full_rank_reproduces_an_encoder(family: str, tmp_path: Path):
    """… and survives the round trip through a folder."""
    teacher = make_encoder(family)
    names = ModelParts(teacher).list_matrix_names()
    assert len(names) == 12
    student = assemble_low_rank(teacher, decompose_matrices(teacher, names, 99))
    inputs = {"input_ids": torch.randint(5, 50, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    inputs["attention_mask"][1, 4:] = 0
    assert torch.allclose(student(**inputs).logits, teacher(**inputs).logits, atol=1e-5)
    student.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert isinstance(loaded, LowRankModel)
    assert torch.equal(loaded(**inputs).logits, student(**inputs).logits)
    assert ModelParts(loaded).count_layer_parameters() == ModelParts(student).count_layer_parameters()


@pytest.mark.parametrize("family", decoders.FAMILIES)
def test_full_rank_reproduces_a_decoder(family: str):
    teacher = make_decoder(family, attention_bias=True) if family == "llama" else make_decoder(family)
    linear = replace_conv1d(teacher)
    factors = decompose_matrices(linear, ModelParts(linear).list_matrix_names(), 99)
    student = assemble_low_rank(teacher, factors)
    assert torch.allclose(read_token_logits(student), read_token_logits(teacher), atol=1e-4)


def test_embedding_factors_reproduce_the_lookup():
    teacher = make_encoder("bert")
    parts = ModelParts(teacher)
    parts.word_embedding.weight.data = torch.randn(50, 12) @ torch.randn(12, 16)  # exactly of rank 12
    student = assemble_low_rank(teacher, decompose_matrices(teacher, [parts.word_embedding_path], 12, "svd"))
    ids = torch.randint(5, 50, (2, 7))
    assert torch.allclose(student(ids).logits, teacher(ids).logits, atol=1e-5)
