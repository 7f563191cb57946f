"""Inner aspects of decoders: rebuilt attention against the library's own, objectives against loops, refusals."""

import copy

import numpy as np
import pytest
import torch
from test_decoders import FAMILIES, halved, sentences, tiny
from test_lowrank import tiny as tiny_encoder
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from stages.distillation.capture import Batch, Capture, Captured
from stages.distillation.objectives import (
    AttentionKL,
    AttentionMSE,
    Contrastive,
    HiddenCosine,
    HiddenStates,
    Matrices,
    Objective,
    Relations,
)
from stages.models.anatomy import Parts

SPECIAL = {
    "gpt2 scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2 unscaled": ("gpt2", {"scale_attn_weights": False}),
    "llama with longer contexts": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
    ),
    "llama with narrow heads": ("llama", {"head_dim": 2}),
    "mistral with a window": ("mistral", {"sliding_window": 3}),
    "qwen2 with a window above": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1},
    ),
    "qwen3 of one key head": ("qwen3", {"num_key_value_heads": 1}),
}
CASES = {family: (family, {}) for family in FAMILIES} | SPECIAL
TERMS = [
    AttentionKL(),
    AttentionMSE(),
    HiddenStates(),
    HiddenCosine(),
    Relations(layers="all", heads=2),
    Matrices(layers="all"),
    Matrices(layers="all", mode="local"),
]


def inputs(side: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in sentences(side).items() if name != "labels"}


def known(side: str) -> Batch:
    return Batch(mask=sentences(side)["attention_mask"].float(), labels=torch.zeros(3))


def captured(model, term: Objective, side: str = "right", as_a: str = "teacher") -> Captured:
    aspects = {(name, layer) for name in term.aspects(as_a) for layer in range(1, Parts(model).depth + 1)}
    capture = Capture(model, aspects)
    found = capture(model, inputs(side), aspects)
    capture.close()
    return found


def value(term: Objective, student, teacher, side: str = "right") -> Tensor:
    with torch.inference_mode():
        theirs = captured(teacher.requires_grad_(False), term, side)
    return term(captured(student, term, side, "student"), theirs, known(side))


def noisy(model, size: float = 0.1):
    """A copy with somewhat other weights."""
    other = copy.deepcopy(model).requires_grad_(True)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(size * torch.randn_like(weight))
    return other


def library_scores(model, side: str) -> list[Tensor]:
    """Every layer's scores before the mask, (batch, heads, tokens, tokens), as an attention function is given them."""
    seen = []

    def spy(module, query, key, value, mask, scaling, **others):
        k, v = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        seen.append(query @ k.transpose(2, 3) * scaling)
        weights = (seen[-1] + mask).softmax(-1)
        return (weights @ v).transpose(1, 2), weights

    AttentionInterface.register("spy", spy)
    AttentionMaskInterface.register("spy", eager_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("spy")
    with torch.no_grad():
        model(**inputs(side))
    model.set_attn_implementation(before)
    return seen


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", CASES)
def test_rebuilt_attention_is_the_librarys(case, side):
    """Beside fused attention, against the maps that the plain one returns; dense and low-rank."""
    family, changes = CASES[case]
    model = tiny(family, layers=3, **changes)
    for each in (model, halved(model).model):
        with torch.no_grad():
            found = captured(each, AttentionKL(), side)
            each.set_attn_implementation("eager")
            plain = each(**inputs(side), output_attentions=True).attentions
        real = known(side).mask.bool()[:, None, :, None].expand_as(plain[0])
        for layer in (1, 2, 3):
            rebuilt = found.scores(layer, known(side)).softmax(-1)
            assert torch.allclose(rebuilt[real], plain[layer - 1][real], atol=1e-5)


def test_positions_are_those_that_the_model_was_given():
    """`generate` counts a left-padded prompt from its first real token."""
    model, read = tiny("llama"), inputs("left")
    read["position_ids"] = (read["attention_mask"].cumsum(1) - 1).clamp_min(0)
    aspects = {(name, 1) for name in AttentionKL().aspects("teacher")}
    with torch.no_grad():
        found = Capture(model, aspects)(model, read, aspects)
        model.set_attn_implementation("eager")
        plain = model(**read, output_attentions=True).attentions[0]
    real = known("left").mask.bool()[:, None, :, None].expand_as(plain)
    assert torch.allclose(found.scores(1, known("left")).softmax(-1)[real], plain[real], atol=1e-5)


def rows(side: str, window: int = 99):
    """(example, query, keys that it may look at), one after the other."""
    mask = sentences(side)["attention_mask"].bool()
    for b, real in enumerate(mask):
        for i in real.nonzero()[:, 0].tolist():
            yield b, i, [j for j in range(max(0, i - window + 1), i + 1) if real[j]]


def over_rows(
    ours: list[Tensor], theirs: list[Tensor], side: str, distance, window: int = 99, pairs: bool = False, asked=None
):
    """Mean over layers and examples of the mean over heads and queries (or pairs) of distance(teacher's, student's).

    Of all real queries, or of those that are asked.
    """
    layers = []
    for s, t in zip(ours, theirs, strict=True):
        examples: dict[int, list] = {}
        for b, i, keys in rows(side, window):
            for h in range(s.shape[1] if asked is None or asked[b, i] else 0):
                found = distance(t[b, h, i, keys].double().numpy(), s[b, h, i, keys].double().numpy())
                examples.setdefault(b, []).extend(found if pairs else [found])
        layers.append(np.mean([np.mean(each) for each in examples.values()]))
    return np.mean(layers)


def kl(t: np.ndarray, s: np.ndarray) -> float:
    p, q = (np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in (t, s))
    return float((p * (np.log(p) - np.log(q))).sum())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", ["gpt2", "llama", "qwen3", "mistral with a window"])
def test_attention_objectives_equal_the_loop(case, side):
    family, changes = CASES[case]
    teacher = tiny(family, **changes)
    student, window = noisy(teacher), changes.get("sliding_window", 99)
    ours, theirs = library_scores(student, side), library_scores(teacher, side)
    expected = over_rows(ours, theirs, side, kl, window)
    assert value(AttentionKL(), student, teacher, side).item() == pytest.approx(expected, rel=1e-4)
    expected = over_rows(ours, theirs, side, lambda t, s: list((t - s) ** 2), window, pairs=True)
    assert value(AttentionMSE(), student, teacher, side).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_are_looked_at_and_not_compared(side):
    """Every objective against a float64 loop over the positions asked, whose queries see the prompt's keys."""
    teacher, real = tiny("llama"), known(side).mask.bool()
    student, asked = noisy(teacher), real & (real.cumsum(1) > 2) & (real.flip(1).cumsum(1).flip(1) > 1)
    batch = Batch(mask=known(side).mask, labels=torch.zeros(3), asked=asked)

    def found(term: Objective) -> float:
        models = captured(student, term, side, "student"), captured(teacher.requires_grad_(False), term, side)
        return term(*models, batch).item()

    def loop(term: Objective, name: str, distance) -> float:
        ours, theirs = (captured(model, term, side) for model in (student, teacher))
        return np.mean([
            distance(*(x[name, layer][b, asked[b]].detach().double().numpy() for x in (ours, theirs)))
            for layer in (1, 2) for b in range(3)
        ])  # fmt: skip

    def squares(s: np.ndarray, t: np.ndarray) -> float:
        return ((s - t) ** 2).sum() / (t**2).sum()

    def angle(s: np.ndarray, t: np.ndarray) -> float:
        return np.mean(1 - (s * t).sum(1) / np.linalg.norm(s, axis=1) / np.linalg.norm(t, axis=1))

    near = {"rel": 1e-4}
    assert found(HiddenStates()) == pytest.approx(loop(HiddenStates(), "hidden", squares), **near)
    assert found(HiddenCosine(layers="all")) == pytest.approx(loop(HiddenStates(), "hidden", angle), **near)
    matrices = Matrices(layers="all")
    each = [loop(matrices, name, squares) for name in ("q", "k", "v", "up", "gate", "down")]
    assert found(matrices) == pytest.approx(np.mean(each), **near)
    scores = [library_scores(model, side) for model in (student, teacher)]
    assert found(AttentionKL()) == pytest.approx(over_rows(*scores, side, kl, asked=asked), **near)
    expected = over_rows(*scores, side, lambda t, s: list((t - s) ** 2), pairs=True, asked=asked)
    assert found(AttentionMSE()) == pytest.approx(expected, **near)


def test_relations_look_back_only():
    teacher = tiny("llama")
    student, term = noisy(teacher), Relations(layers="all", heads=2, q=0, k=0)
    values = [[captured(m, term)["v", layer].detach() for layer in (1, 2)] for m in (student, teacher)]
    products = [
        [(x := v.unflatten(-1, (2, -1)).transpose(1, 2)) @ x.transpose(2, 3) / x.shape[-1] ** 0.5 for v in each]
        for each in values
    ]
    assert value(term, student, teacher).item() == pytest.approx(over_rows(*products, "right", kl), rel=1e-4)


@pytest.mark.parametrize("term", TERMS, ids=lambda t: f"{type(t).__name__}-{getattr(t, 'mode', '')}")
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_objectives_are_zero_at_the_teacher_and_reach_the_student(family, term):
    """Also of a low-rank student; what stands at padding changes nothing."""
    teacher = tiny(family)
    assert value(term, noisy(teacher, 0), teacher).item() == pytest.approx(0, abs=1e-6)
    for student in (noisy(teacher), halved(tiny(family, layers=2), budget=0.6).model.requires_grad_(True)):
        loss = value(term, student, teacher)
        loss.backward()
        assert loss.item() > 1e-4
        assert sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None) > 0
        moved = [captured(m, term, as_a=side) for m, side in ((student, "student"), (teacher, "teacher"))]
        for found in moved:
            found.values = {
                key: x if key[0] == "attention" else x.masked_fill(known("right").mask[..., None] == 0, 7.0)
                for key, x in found.values.items()
            }
        assert term(*moved, known("right")).item() == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("term", TERMS, ids=lambda t: f"{type(t).__name__}-{getattr(t, 'mode', '')}")
@pytest.mark.parametrize("case", ["gpt2", "mistral with a window"])
def test_in_half_precision_the_value_stays(case, term):
    """Rows of a left-padded batch that see no key at all make nothing infinite."""
    family, changes = CASES[case]
    teacher = tiny(family, **changes)
    student = noisy(teacher, 0.3)
    exact = value(term, student, teacher, "left").item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = value(term, student, teacher, "left")
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.05)
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


def test_the_gate_is_one_of_the_maps():
    """Its distance alone, and beside a family that has none."""
    teacher = tiny("llama")
    student = noisy(teacher)
    only = dict.fromkeys(("q", "k", "v", "up", "down"), 0.0)
    term = Matrices(layers=[2], maps=only | {"gate": 1.0})
    ours, theirs = (captured(m, term)["gate", 2].detach().double() for m in (student, teacher))
    mask = known("right").mask.double()[..., None]
    each = ((ours - theirs) ** 2 * mask).sum((1, 2)) / (theirs**2 * mask).sum((1, 2))
    assert value(term, student, teacher).item() == pytest.approx(each.mean().item(), rel=1e-5)
    shapes = Parts(tiny("gpt2", n_inner=24)).shape, Parts(teacher).shape
    assert set(Matrices().learned(*shapes, [])) == {"k", "v"}, "no gate to be projected"
    with pytest.raises(ValueError, match=r"maps gate: not both models have any of them"):
        term.pairs(*shapes)


def test_other_rotations_and_fewer_key_heads_can_be_compared():
    """Scores are compared behind the rotation, head by head of the queries."""
    teacher = tiny("llama")
    student = tiny("llama", num_key_value_heads=1, rope_parameters={"rope_type": "default", "rope_theta": 77.0})
    expected = over_rows(library_scores(student, "left"), library_scores(teacher, "left"), "left", kl)
    assert value(AttentionKL(), student, teacher, "left").item() == pytest.approx(expected, rel=1e-4)


def test_what_cannot_be_compared_is_refused():
    llama, windowed = Parts(tiny("llama")).shape, Parts(tiny("mistral", sliding_window=3)).shape
    encoder = Parts(tiny_encoder("bert")).shape
    for term in (AttentionKL(), AttentionMSE(), Relations(heads=2)):
        with pytest.raises(ValueError, match="look back only and the other's both ways"):
            term.pairs(llama, encoder)
    for term in (AttentionKL(), AttentionMSE()):
        with pytest.raises(ValueError, match="layer 1 has no sliding window, the teacher's 1 3"):
            term.pairs(llama, windowed)
        with pytest.raises(ValueError, match="the student has 2, the teacher 4"):
            term.pairs(Parts(tiny("llama", num_attention_heads=2)).shape, llama)
    with pytest.raises(ValueError, match="heads 3 does not divide"):
        Relations(heads=3).pairs(llama, llama)
    for term in (HiddenStates(tokens="first"), Contrastive()):
        with pytest.raises(ValueError, match="sums a text up"):
            term.pairs(llama, llama)
