"""Every objective against a float64 reference written from its formula as plain loops; gradients; padding."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_lowrank import tiny

from stages.distillation.capture import Batch, Capture, Captured
from stages.distillation.distances import divergence, squared_distance
from stages.distillation.objectives import KL, AttentionKL, Hard, HiddenStates, Matrices
from stages.distillation.schedule import turn
from stages.models.anatomy import Parts
from stages.settings import Distill

MASK = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def kl(t: np.ndarray, s: np.ndarray) -> float:
    p, q = softmax(t), softmax(s)
    return float(sum(p[i] * (np.log(p[i]) - np.log(q[i])) for i in range(len(p)) if p[i] > 0))


def pair(depth: int = 2, heads: int = 2, width: int = 6, seed: int = 0) -> tuple[Captured, Captured]:
    """Two models' worth of random values at every aspect, padding filled with noise too."""
    torch.manual_seed(seed)
    parts = SimpleNamespace(depth=depth, heads=heads)
    names = ("hidden", "q", "k", "v", "up", "down")

    def one() -> Captured:
        values = {(n, i): torch.randn(3, 4, width, dtype=torch.float64) for n in names for i in range(1, depth + 1)}
        return Captured(parts, torch.randn(3, 5, dtype=torch.float64), values)

    return one(), one()


def batch(**changes) -> Batch:
    return Batch(**{"mask": MASK.double(), "labels": torch.tensor([0, 3, 1])} | changes)


def test_hard_is_cross_entropy():
    student, teacher = pair()
    expected = torch.nn.functional.cross_entropy(student.logits.float(), batch().labels)
    assert Hard()(student, teacher, batch()).item() == pytest.approx(expected.item(), rel=1e-6)


def test_kl_equals_the_loop():
    student, teacher = pair()
    expected = 9 * np.mean([kl(teacher.logits[b].numpy() / 3, student.logits[b].numpy() / 3) for b in range(3)])
    assert KL(temperature=3)(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-5)


def test_regression_compares_values():
    student, teacher = pair()
    student.logits, teacher.logits = student.logits[:, :1], teacher.logits[:, :1]
    labels = torch.tensor([0.5, -1.0, 2.0])
    s, t = student.logits[:, 0].numpy(), teacher.logits[:, 0].numpy()
    assert KL()(student, teacher, batch()).item() == pytest.approx(np.mean((s - t) ** 2) / 2, rel=1e-5)
    assert Hard()(student, teacher, batch(labels=labels)).item() == pytest.approx(
        np.mean((s - labels.numpy()) ** 2), rel=1e-5
    )


def test_attention_kl_equals_the_loop():
    student, teacher = pair()
    n_real = MASK.sum(1).int().tolist()
    per_layer = []
    for layer in (1, 2):
        examples = []
        for b, n in enumerate(n_real):
            rows = []
            for h in range(2):
                cut = slice(3 * h, 3 * h + 3)
                for i in range(n):
                    s, t = (
                        np.array([m["q", layer][b, i, cut] @ m["k", layer][b, j, cut] for j in range(n)]) / np.sqrt(3)
                        for m in (student, teacher)
                    )
                    rows.append(kl(t, s))
            examples.append(np.mean(rows))
        per_layer.append(np.mean(examples))
    assert AttentionKL()(student, teacher, batch()).item() == pytest.approx(np.mean(per_layer), rel=1e-9)
    assert AttentionKL(layers=[2])(student, teacher, batch()).item() == pytest.approx(per_layer[1], rel=1e-9)


def relative(s: torch.Tensor, t: torch.Tensor, tokens: list[int]) -> float:
    values = []
    for b, n in enumerate(tokens):
        above = sum(float((s[b, i, c] - t[b, i, c]) ** 2) for i in range(n) for c in range(s.shape[-1]))
        below = sum(float(t[b, i, c] ** 2) for i in range(n) for c in range(s.shape[-1]))
        values.append(above / below)
    return float(np.mean(values))


@pytest.mark.parametrize("tokens", ["all", "first"])
def test_hidden_states_equal_the_loop(tokens):
    student, teacher = pair()
    counts = MASK.sum(1).int().tolist() if tokens == "all" else [1, 1, 1]
    expected = np.mean([relative(student["hidden", i], teacher["hidden", i], counts) for i in (1, 2)])
    assert HiddenStates(tokens=tokens)(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-9)


def test_matrices_equal_the_weighted_loop():
    student, teacher = pair()
    counts = MASK.sum(1).int().tolist()
    weights = {"q": 1.0, "k": 1.0, "v": 2.0, "up": 0.5}
    expected = np.mean(
        [
            sum(w * relative(student[n, i], teacher[n, i], counts) for n, w in weights.items()) / sum(weights.values())
            for i in (1, 2)
        ]
    )
    term = Matrices(layers="all", maps=weights | {"down": 0})
    assert term(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-9)


TERMS = [KL(), AttentionKL(), HiddenStates(), HiddenStates(tokens="first"), Matrices(), HiddenStates(normalize="none")]


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_zero_at_the_teacher_and_blind_to_padding(term):
    student, teacher = pair()
    assert abs(term(teacher, teacher, batch()).item()) < 1e-7
    before = term(student, teacher, batch()).item()
    for model in (student, teacher):
        for name, layer in model.values:
            model.values[name, layer][MASK == 0] = 77.0
    assert term(student, teacher, batch()).item() == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_a_mean_over_examples(term):
    """A batch is worth the mean of its halves: accumulation and several processes leave the loss as it is."""
    student, teacher = pair()
    whole = term(student, teacher, batch()).item()
    singles = []
    for b in range(3):
        one = [
            Captured(m.parts, m.logits[b : b + 1], {k: v[b : b + 1] for k, v in m.values.items()})
            for m in (student, teacher)
        ]
        singles.append(term(*one, Batch(mask=MASK[b : b + 1].double(), labels=torch.tensor([0]))).item())
    assert whole == pytest.approx(np.mean(singles), rel=1e-6)


def test_gradients_by_finite_differences():
    torch.manual_seed(0)
    s, t = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, 5, dtype=torch.float64)
    mask = torch.tensor([[1.0, 1, 0], [1, 1, 1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: divergence(x, t), s)
    assert torch.autograd.gradcheck(lambda x: squared_distance(x, t, mask), s)
    assert torch.autograd.gradcheck(lambda x: squared_distance(x, t, mask, "none"), s)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_compared_in_float32(dtype):
    torch.manual_seed(0)
    s, t = torch.randn(4, 9, 64).to(dtype).requires_grad_(), torch.randn(4, 9, 64).to(dtype)
    mask = torch.ones(4, 9)
    for function in (lambda a, b: divergence(a, b), lambda a, b: squared_distance(a, b, mask)):
        low, exact = function(s, t), function(s.detach().double(), t.double())
        assert low.dtype == torch.float32
        assert torch.allclose(low.double(), exact, rtol=1e-5)
        low.sum().backward()
        assert s.grad.dtype == dtype
        s.grad = None


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "deberta-v2"])
def test_captured_scores_are_the_models_own_attention(family):
    """The maps rebuilt beside fused attention against those that the plain attention returns."""
    model = tiny(family)
    aspects = AttentionKL().aspects(2) | HiddenStates().aspects(2)
    ids, mask = torch.randint(5, 50, (2, 6)), torch.ones(2, 6)
    mask[1, 4:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    with torch.no_grad():
        found = Capture(model, aspects)(model, inputs, aspects)
        model.set_attn_implementation("eager")
        plain = model(**inputs, output_attentions=True, output_hidden_states=True)
    known = Batch(mask=mask, labels=torch.zeros(2))
    for layer in (1, 2):
        rebuilt = found.scores(layer, known).softmax(-1)
        real = mask.bool()[:, None, :, None].expand_as(rebuilt)
        assert torch.allclose(rebuilt[real], plain.attentions[layer - 1][real], atol=1e-5)
        assert torch.allclose(found["hidden", layer], plain.hidden_states[layer], atol=1e-5)


def test_only_what_is_wanted_is_kept():
    model = tiny("bert")
    aspects = AttentionKL().aspects(2) | Matrices(mode="local", layers="all").aspects(2)
    capture = Capture(model, aspects)
    ids = {"input_ids": torch.randint(5, 50, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    assert not capture(model, ids, ()).values
    assert set(capture(model, ids, {("up", 2), ("input.up", 2)}).values) == {("up", 2), ("input.up", 2)}


def test_local_mode_feeds_the_teachers_input_to_the_students_matrix():
    teacher, student = tiny("bert"), tiny("bert")
    with torch.no_grad():
        Parts(student).matrix("up", 2).weight.mul_(1.1)
    term = Matrices(mode="local", layers=[2], maps={"q": 0, "k": 0, "v": 0, "up": 1, "down": 0})
    inputs = {"input_ids": torch.randint(5, 50, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    wanted = term.aspects(2)
    with torch.inference_mode():
        theirs = Capture(teacher, wanted)(teacher, inputs, wanted)
    ours = Capture(student, wanted)(student, inputs, wanted)
    known = Batch(mask=torch.ones(2, 6), labels=torch.zeros(2))
    x = theirs["input.up", 2]
    expected = squared_distance(Parts(student).matrix("up", 2)(x.clone()), theirs["up", 2], known.mask).mean()
    value = term(ours, theirs, known)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    value.backward()
    reached = [n for n, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert reached == ["bert.encoder.layer.1.intermediate.dense.weight", "bert.encoder.layer.1.intermediate.dense.bias"]


def test_sparse_layers_are_every_kth_and_the_last():
    assert Matrices(every=2).compared(7) == [2, 4, 6, 7]
    assert Matrices(every=3).compared(6) == [3, 6]


def test_hierarchies():
    settings = Distill(hierarchy="stages", stage_shares=(0.5, 0.25, 0.25))
    terms = settings.objectives.active()
    seen = [set(turn(settings, s, 8, 4).terms(terms, 4)) for s in range(8)]
    layer = {"attention_kl", "hidden"}
    assert seen == [layer] * 4 + [layer | {"matrices"}] * 2 + [{"kl"}] * 2

    rotate = Distill(hierarchy="rotate")
    taken = [list(turn(rotate, s, 9, 6).layers) for s in range(3)]
    assert taken == [[1, 4], [2, 5], [3, 6]]
    # matrices compares layers 2, 4, 6 of 6: all its turns are kept, none is empty
    assert all("matrices" in turn(rotate, s, 9, 6).terms(terms, 6) for s in range(3))
    # … and of 3 layers it compares 2 and 3 only: no turn at layer 1
    assert "matrices" not in turn(rotate, 0, 9, 3).terms(terms, 3)
