"""Objectives on inner states of decoders: at the teacher, in half precision, and models that cannot be compared."""

import pytest
import torch
from transformers import PreTrainedModel

from stages.distillation.capture import measure_shape
from stages.models.anatomy import ModelParts
from stages.objectives import (
    AttentionKL,
    AttentionMSE,
    Contrastive,
    HiddenCosine,
    HiddenStates,
    Matrices,
    Objective,
    Relations,
)
from stages.objectives.inputs import Shape
from tests.makers.decoder_capture import CASES, capture_aspects, compute_term, describe_causal_batch, perturb
from tests.makers.decoders import factorize_decoder, make_decoder
from tests.makers.encoders import make_encoder

TERMS = [
    AttentionKL(),
    AttentionMSE(),
    HiddenStates(),
    HiddenCosine(),
    Relations(layers="all", heads=2),
    Matrices(layers="all"),
    Matrices(layers="all", mode="local"),
]


def name_term(term: Objective) -> str:
    return f"{type(term).__name__}-{getattr(term, 'mode', '')}"


def read_shape(model: PreTrainedModel) -> Shape:
    return measure_shape(ModelParts(model))


@pytest.mark.parametrize("term", TERMS, ids=name_term)
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_objectives_are_zero_at_the_teacher_and_reach_the_student(family, term):
    """Also of a low-rank student; what is at padding changes nothing."""
    teacher, batch = make_decoder(family), describe_causal_batch("right")
    assert compute_term(term, perturb(teacher, 0), teacher).item() == pytest.approx(0, abs=1e-6)
    low_rank = factorize_decoder(make_decoder(family, layers=2), budget=0.6).requires_grad_(True)
    for student in (perturb(teacher), low_rank):
        loss = compute_term(term, student, teacher)
        loss.backward()
        assert loss.item() > 1e-4
        assert sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None) > 0
        outputs = [capture_aspects(m, term, side=side) for m, side in ((student, "student"), (teacher, "teacher"))]
        for captured in outputs:
            captured.values = {
                key: x if key[0] == "attention" else x.masked_fill(batch.mask[..., None] == 0, 7.0)
                for key, x in captured.values.items()
            }
        assert term(*outputs, batch).item() == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("term", TERMS, ids=name_term)
@pytest.mark.parametrize("case", ["gpt2", "mistral with a window"])
def test_in_half_precision_the_value_stays(case, term):
    """Rows of a left-padded batch that attend to no key at all make nothing infinite."""
    family, changes = CASES[case]
    teacher = make_decoder(family, **changes)
    student = perturb(teacher, 0.3)
    exact = compute_term(term, student, teacher, "left").item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = compute_term(term, student, teacher, "left")
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.05)
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


def test_the_gate_is_one_of_the_maps():
    """Its distance alone, and beside a family that has none."""
    teacher = make_decoder("llama")
    student = perturb(teacher)
    others = dict.fromkeys(("q", "k", "v", "up", "down"), 0.0)
    term = Matrices(layers=[2], maps=others | {"gate": 1.0})
    ours, theirs = (capture_aspects(m, term)["gate", 2].detach().double() for m in (student, teacher))
    mask = describe_causal_batch("right").mask.double()[..., None]
    examples = ((ours - theirs) ** 2 * mask).sum((1, 2)) / (theirs**2 * mask).sum((1, 2))
    assert compute_term(term, student, teacher).item() == pytest.approx(examples.mean().item(), rel=1e-5)
    shapes = read_shape(make_decoder("gpt2", n_inner=24)), read_shape(teacher)
    assert set(Matrices().learned_modules(*shapes, [])) == {"k", "v"}, "no gate to be projected"
    with pytest.raises(ValueError, match=r"maps gate: not both models have any of them"):
        term.layer_pairs(*shapes)


def test_models_that_cannot_be_compared_are_refused():
    llama = read_shape(make_decoder("llama"))
    windowed, encoder = read_shape(make_decoder("mistral", sliding_window=3)), read_shape(make_encoder("bert"))
    for term in (AttentionKL(), AttentionMSE(), Relations(heads=2)):
        with pytest.raises(ValueError, match="attend to earlier ones only and the other's both ways"):
            term.layer_pairs(llama, encoder)
    for term in (AttentionKL(), AttentionMSE()):
        with pytest.raises(ValueError, match="layer 1 has no sliding window, the teacher's 1 3"):
            term.layer_pairs(llama, windowed)
        with pytest.raises(ValueError, match="the student has 2, the teacher 4"):
            term.layer_pairs(read_shape(make_decoder("llama", num_attention_heads=2)), llama)
    with pytest.raises(ValueError, match="heads 3 does not divide"):
        Relations(heads=3).layer_pairs(llama, llama)
    for term in (HiddenStates(tokens="first"), Contrastive()):
        with pytest.raises(ValueError, match="sums a text up"):
            term.layer_pairs(llama, llama)
