"""What holds for every objective: 0 at the teacher, blind to padding, a mean over examples, safe in half precision."""

import numpy as np
import pytest
import torch

from stages.distillation.capture import CapturedOutputs
from stages.objectives import (
    KL,
    AttentionKL,
    AttentionMSE,
    Embedding,
    HiddenCosine,
    HiddenStates,
    LogitMSE,
    Matrices,
    Relations,
)
from stages.objectives.inputs import Batch
from tests.makers.captured import MASK, make_captured_pair, make_known_batch

TERMS = [
    KL(),
    LogitMSE(),
    AttentionKL(),
    AttentionMSE(),
    Relations(),
    Relations(heads=3, layers="skip"),
    HiddenStates(),
    HiddenStates(tokens="first"),
    HiddenStates(normalize="none"),
    HiddenCosine(),
    Embedding(),
    Matrices(),
]
"""All that are 0 at the teacher; `contrastive` has a floor of its own."""


def map_outputs(model: CapturedOutputs, change) -> CapturedOutputs:
    """The same output with `change` applied to the logits and to every value."""
    values = {aspect: change(value) for aspect, value in model.values.items()}
    return CapturedOutputs(model.parts, model.shape, change(model.logits), values)


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_zero_at_the_teacher_and_blind_to_padding(term):
    student, teacher = make_captured_pair()
    batch = make_known_batch()
    assert abs(term(teacher, teacher, batch).item()) < 1e-7
    before = term(student, teacher, batch).item()
    for model in (student, teacher):
        for aspect in model.values:
            model.values[aspect][MASK == 0] = 77.0
    assert term(student, teacher, batch).item() == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_a_mean_over_examples(term):
    """A batch is worth the mean of its halves: accumulation and several processes leave the loss as it is."""
    models = make_captured_pair()
    whole = term(*models, make_known_batch()).item()
    singles = []
    for b in range(3):
        example = [map_outputs(model, lambda value, b=b: value[b : b + 1]) for model in models]
        batch = Batch(mask=MASK[b : b + 1].double(), labels=torch.tensor([0]))
        singles.append(term(*example, batch).item())
    assert whole == pytest.approx(np.mean(singles), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_captured_in_half_precision_the_value_stays(term, dtype):
    """Products of half-precision vectors are rounded before they are compared; nothing else is lost."""
    low = [map_outputs(model, lambda value: value.to(dtype)) for model in make_captured_pair()]
    exact = [map_outputs(model, lambda value: value.double()) for model in low]
    value = term(*low, make_known_batch(mask=MASK))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(term(*exact, make_known_batch()).item(), rel=0.02)
