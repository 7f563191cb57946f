"""Whole models factorized: the budget is met, alone and behind a cut of layers or widths."""

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from stages.lowrank.budget import matrix_budget
from stages.lowrank.factorization import Factorization, factorize_model
from stages.models.anatomy import ModelParts
from stages.models.loading import load_checkpoint
from stages.models.modeling import LowRankModel
from stages.pruning.cut import cut_to_plan
from stages.pruning.plan import plan_from_budget
from stages.settings import Factorize
from tests.makers import decoders
from tests.makers.decoders import make_causal_batch, make_decoder, multiply_factors
from tests.makers.encoders import FAMILIES, make_batch, make_teacher


def factorize_classifier(settings: Factorize, teacher: PreTrainedModel, student: PreTrainedModel) -> Factorization:
    """A student, cut already, factorized to the budget."""
    batch = make_batch() | {"labels": torch.tensor([0, 1, 1])}
    return factorize_model(settings, student, matrix_budget(settings, teacher, student), [batch])


def measure_layer_share(student: PreTrainedModel, teacher: PreTrainedModel) -> float:
    return ModelParts(student).count_layer_parameters() / ModelParts(teacher).count_layer_parameters()


@pytest.mark.parametrize("family", [*FAMILIES, "deberta-v2"])
@pytest.mark.parametrize("settings", [{"layers": "every"}, {"layers": "last", "depth": 3}, {"layers": [1, 2, 6]}])
def test_layers_and_low_rank_together_meet_the_budget(family: str, settings: dict):
    teacher = make_teacher(family)
    factorize = Factorize(budget=0.25, multiple_of=1, decomposition="svd", **settings)
    start = cut_to_plan(teacher, plan_from_budget(factorize, teacher))
    student = factorize_classifier(factorize, teacher, start).model
    assert isinstance(student, LowRankModel)
    assert 0.2475 <= measure_layer_share(student, teacher) <= 0.25
    assert ModelParts(student).depth == (2 if factorize.layers == "every" else 3)


def test_all_parameters_counted_with_a_factorized_embedding():
    teacher = make_teacher("bert")
    settings = Factorize(budget=0.5, count="all", layers="last", embeddings=8, multiple_of=1, decomposition="svd")
    plan, size = plan_from_budget(settings, teacher), ModelParts(teacher).count_layer_parameters()
    layer, rest = size // 6, teacher.num_parameters() - size
    rest += 8 * (50 + 32) - 50 * 32
    fewest = next(n for n in range(1, 7) if n * layer + rest >= 0.99 * 0.5 * teacher.num_parameters())
    assert len(plan.layers) == fewest
    student = factorize_classifier(settings, teacher, cut_to_plan(teacher, plan)).model
    assert 0.495 <= student.num_parameters() / teacher.num_parameters() <= 0.5


def test_an_explicit_inner_width_is_met_by_low_rank():
    teacher = make_teacher("bert", width=64, neurons=256)
    settings = Factorize(budget=0.2, hidden_size=32, intermediate_size=200, multiple_of=1, decomposition="svd")
    start = cut_to_plan(teacher, plan_from_budget(settings, teacher))
    assert ModelParts(start).neurons == 200
    student = factorize_classifier(settings, teacher, start).model
    assert 0.198 <= measure_layer_share(student, teacher) <= 0.2


@pytest.mark.parametrize("method", ["svd", "whitened", "fisher"])
@pytest.mark.parametrize("family", decoders.FAMILIES)
def test_decoders_meet_the_budget(family: str, method: str):
    """Alone and behind a depth cut; smaller matrices of keys and values have ranks of their own size."""
    teacher = make_decoder(family, layers=4, hidden_size=32, head_dim=8)
    for changes in ({}, {"layers": "every", "budget": 0.3}):
        settings = Factorize.model_validate({"budget": 0.5, "multiple_of": 1, "decomposition": method} | changes)
        start = cut_to_plan(teacher, plan_from_budget(settings, teacher))
        result = factorize_model(settings, start, matrix_budget(settings, teacher, start), [make_causal_batch()])
        assert 0.99 * settings.budget <= measure_layer_share(result.model, teacher) <= settings.budget
        assert ModelParts(result.model).depth == (2 if changes else 4)
        assert {f"base.{name}" for name in result.ranks} == set(ModelParts(result.model).list_matrix_names())


@pytest.mark.real
def test_a_trained_llama_is_closer_by_whitening(real_data: Path, tmp_path: Path):
    """A Llama of 260k parameters, trained on stories, at half of its layers' size: its loss on held-out text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = real_data / "models" / "stories260k"
    tokenizer, teacher = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    stories = [json.loads(line)["text"] for line in (real_data / "text/tinystories/train.jsonl").open()][:96]
    tokenizer.pad_token = tokenizer.eos_token
    inputs = tokenizer(stories, truncation=True, max_length=64, padding=True, return_tensors="pt")
    batch = dict(inputs) | {"labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}
    calibration, held_out = (
        {name: tensor[part] for name, tensor in batch.items()} for part in (slice(64), slice(64, 96))
    )
    losses, students = {}, {}
    for method in ("svd", "whitened"):
        settings = Factorize(decomposition=method, multiple_of=1)
        student = factorize_model(settings, teacher, matrix_budget(settings, teacher, teacher), [calibration]).model
        assert 0.495 <= measure_layer_share(student, teacher) <= 0.5
        with torch.no_grad():
            losses[method], students[method] = student(**held_out).loss.item(), student
    with torch.no_grad():
        assert teacher(**held_out).loss < losses["whitened"] - 1 < losses["svd"] - 2
    student = students["whitened"]
    student.save_pretrained(tmp_path)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    tokens = load_checkpoint(tmp_path).generate(**prompt, max_new_tokens=40, do_sample=False)
    assert torch.equal(tokens, multiply_factors(student).generate(**prompt, max_new_tokens=40, do_sample=False))
