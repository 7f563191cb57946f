"""What is captured of encoders, against what the library returns."""

import pytest
import torch

from stages.distillation.capture import Capture
from stages.models.anatomy import ModelParts
from stages.objectives import AttentionKL, Embedding, HiddenStates, Matrices, Objective
from stages.objectives.distances import squared_distance
from stages.objectives.inputs import Batch
from tests.makers.encoders import make_encoder


def list_teacher_aspects(term: Objective, *layers: int) -> set[tuple[str, int]]:
    """Of a term at these layers."""
    return {(name, layer) for name in term.captured_aspects("teacher") for layer in layers}


def make_inputs() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(5, 50, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "deberta-v2"])
def test_captured_scores_are_the_models_own_attention(family):
    """The maps rebuilt beside fused attention against those that the eager attention returns."""
    model = make_encoder(family)
    aspects = list_teacher_aspects(AttentionKL(), 1, 2) | list_teacher_aspects(HiddenStates(), 0, 1, 2)
    inputs = make_inputs()
    inputs["attention_mask"][1, 4:] = 0
    mask = inputs["attention_mask"].float()
    with torch.no_grad():
        captured = Capture(model, aspects)(model, inputs, aspects)
        model.set_attn_implementation("eager")
        eager = model(**inputs, output_attentions=True, output_hidden_states=True)
    batch = Batch(mask=mask, labels=torch.zeros(2))
    assert torch.allclose(captured["hidden", 0], eager.hidden_states[0], atol=1e-5)
    for layer in (1, 2):
        rebuilt = captured.attention_scores(layer, batch).softmax(-1)
        real = mask.bool()[:, None, :, None].expand_as(rebuilt)
        assert torch.allclose(rebuilt[real], eager.attentions[layer - 1][real], atol=1e-5)
        assert torch.allclose(captured["hidden", layer], eager.hidden_states[layer], atol=1e-5)


def test_only_wanted_aspects_are_captured():
    model = make_encoder("bert")
    aspects = list_teacher_aspects(AttentionKL(), 1, 2) | list_teacher_aspects(Matrices(mode="local"), 1, 2)
    capture = Capture(model, aspects | list_teacher_aspects(Embedding(), 0))
    inputs = make_inputs()
    assert not capture(model, inputs, ()).values
    assert set(capture(model, inputs, {("up", 2), ("input.up", 2)}).values) == {("up", 2), ("input.up", 2)}


def test_local_mode_feeds_the_teachers_input_to_the_students_matrix():
    teacher, student = make_encoder("bert"), make_encoder("bert")
    up = ModelParts(student).get_matrix("up", 2)
    with torch.no_grad():
        up.weight.mul_(1.1)
    term = Matrices(mode="local", layers=[2], maps={"q": 0, "k": 0, "v": 0, "up": 1, "down": 0})
    inputs, aspects = make_inputs(), list_teacher_aspects(term, 2)
    with torch.inference_mode():
        theirs = Capture(teacher, aspects)(teacher, inputs, aspects)
    ours = Capture(student, ())(student, inputs, ())
    batch = Batch(mask=torch.ones(2, 6), labels=torch.zeros(2))
    expected = squared_distance(up(theirs["input.up", 2].clone()), theirs["up", 2], batch.mask).mean()
    value = term(ours, theirs, batch)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    value.backward()
    reached = [n for n, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert reached == ["bert.encoder.layer.1.intermediate.dense.weight", "bert.encoder.layer.1.intermediate.dense.bias"]
