"""Attention objectives of decoders against loops: later tokens, padding, windows, prompts."""

import numpy as np
import pytest

from stages.objectives import AttentionKL, AttentionMSE, HiddenCosine, HiddenStates, Matrices, Objective, Relations
from tests.makers.decoder_capture import (
    CASES,
    NO_WINDOW,
    average_queries,
    capture_aspects,
    compute_term,
    describe_causal_batch,
    list_squares,
    perturb,
    record_library_scores,
)
from tests.makers.decoders import make_decoder
from tests.makers.references import kl_divergence


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", ["gpt2", "llama", "qwen3", "mistral with a window"])
def test_attention_objectives_equal_the_loop(case, side):
    family, changes = CASES[case]
    teacher = make_decoder(family, **changes)
    student, window = perturb(teacher), changes.get("sliding_window", NO_WINDOW)
    scores = record_library_scores(student, side), record_library_scores(teacher, side)
    expected = average_queries(*scores, side, kl_divergence, window=window)
    assert compute_term(AttentionKL(), student, teacher, side).item() == pytest.approx(expected, rel=1e-4)
    expected = average_queries(*scores, side, list_squares, window=window, pairs=True)
    assert compute_term(AttentionMSE(), student, teacher, side).item() == pytest.approx(expected, rel=1e-4)


def measure_relative_squares(s: np.ndarray, t: np.ndarray) -> float:
    return ((s - t) ** 2).sum() / (t**2).sum()


def average_cosine_distances(s: np.ndarray, t: np.ndarray) -> float:
    return np.mean(1 - (s * t).sum(1) / np.linalg.norm(s, axis=1) / np.linalg.norm(t, axis=1))


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_are_attended_to_and_not_compared(side):
    """Every objective against a float64 loop over predicted positions, whose queries attend to the prompt's keys."""
    teacher, real = make_decoder("llama"), describe_causal_batch(side).mask.bool()
    student = perturb(teacher)
    predicted = real & (real.cumsum(1) > 2) & (real.flip(1).cumsum(1).flip(1) > 1)
    batch = describe_causal_batch(side, predicted)

    def compute(term: Objective) -> float:
        ours = capture_aspects(student, term, side, "student")
        return term(ours, capture_aspects(teacher.requires_grad_(False), term, side), batch).item()

    def compute_by_loop(term: Objective, name: str, distance) -> float:
        models = [capture_aspects(model, term, side) for model in (student, teacher)]
        return np.mean([
            distance(*(x[name, layer][b, predicted[b]].detach().double().numpy() for x in models))
            for layer in (1, 2) for b in range(3)
        ])  # fmt: skip

    near = {"rel": 1e-4}
    assert compute(HiddenStates()) == pytest.approx(
        compute_by_loop(HiddenStates(), "hidden", measure_relative_squares), **near
    )
    cosine = compute_by_loop(HiddenStates(), "hidden", average_cosine_distances)
    assert compute(HiddenCosine(layers="all")) == pytest.approx(cosine, **near)
    matrices = Matrices(layers="all")
    maps = [compute_by_loop(matrices, name, measure_relative_squares) for name in ("q", "k", "v", "up", "gate", "down")]
    assert compute(matrices) == pytest.approx(np.mean(maps), **near)
    scores = [record_library_scores(model, side) for model in (student, teacher)]
    expected = average_queries(*scores, side, kl_divergence, predicted=predicted)
    assert compute(AttentionKL()) == pytest.approx(expected, **near)
    expected = average_queries(*scores, side, list_squares, pairs=True, predicted=predicted)
    assert compute(AttentionMSE()) == pytest.approx(expected, **near)


def test_relations_are_with_earlier_tokens_only():
    teacher = make_decoder("llama")
    student, term = perturb(teacher), Relations(layers="all", heads=2, q=0, k=0)
    products = []
    for model in (student, teacher):
        captured = capture_aspects(model, term)
        heads = [captured["v", layer].detach().unflatten(-1, (2, -1)).transpose(1, 2) for layer in (1, 2)]
        products.append([x @ x.transpose(2, 3) / x.shape[-1] ** 0.5 for x in heads])
    expected = average_queries(*products, "right", kl_divergence)
    assert compute_term(term, student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_other_rotations_and_fewer_key_heads_can_be_compared():
    """Scores are compared after the rotation, head by head of the queries."""
    teacher = make_decoder("llama")
    rotation = {"rope_type": "default", "rope_theta": 77.0}
    student = make_decoder("llama", num_key_value_heads=1, rope_parameters=rotation)
    scores = record_library_scores(student, "left"), record_library_scores(teacher, "left")
    expected = average_queries(*scores, "left", kl_divergence)
    assert compute_term(AttentionKL(), student, teacher, "left").item() == pytest.approx(expected, rel=1e-4)
