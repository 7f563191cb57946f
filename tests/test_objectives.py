"""Every objective against a float64 reference written from its formula as plain loops; gradients; padding."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_lowrank import tiny

from stages.distillation.capture import Batch, Capture, Captured
from stages.distillation.distances import divergence, squared_distance
from stages.distillation.objectives import (
    KL,
    AttentionKL,
    AttentionMSE,
    Contrastive,
    Embedding,
    Hard,
    HiddenCosine,
    HiddenStates,
    LogitMSE,
    Matrices,
    Objective,
    Ramp,
    Relations,
)
from stages.distillation.objectives.base import mapped
from stages.distillation.schedule import turn
from stages.models.anatomy import Parts, Shape
from stages.settings import Distill

MASK = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
REAL = MASK.sum(1).int().tolist()
NAMES = ("hidden", "q", "k", "v", "up", "down")


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def kl(t: np.ndarray, s: np.ndarray) -> float:
    p, q = softmax(t), softmax(s)
    return float(sum(p[i] * (np.log(p[i]) - np.log(q[i])) for i in range(len(p)) if p[i] > 0))


def captured(depth: int = 2, heads: int = 2, width: int = 6) -> Captured:
    """A model's worth of random values at every aspect, padding filled with noise too."""
    shape = Shape(depth=depth, heads=heads, widths=dict.fromkeys(NAMES, width), scores="dot")
    values = {(n, i): torch.randn(3, 4, width, dtype=torch.float64) for n in NAMES for i in range(1, depth + 1)}
    values["hidden", 0] = torch.randn(3, 4, width, dtype=torch.float64)
    return Captured(SimpleNamespace(shape=shape), torch.randn(3, 5, dtype=torch.float64), values)


def pair(seed: int = 0, student: dict | None = None, teacher: dict | None = None) -> tuple[Captured, Captured]:
    torch.manual_seed(seed)
    return captured(**student or {}), captured(**teacher or {})


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
    ramp = KL(temperature=Ramp(start=5, end=1, until=0.5))  # 3 at a quarter of the way
    assert ramp(student, teacher, batch(progress=0.25)).item() == pytest.approx(expected, rel=1e-5)


def test_logit_mse_equals_the_loop():
    student, teacher = pair()
    s, t = student.logits.numpy(), teacher.logits.numpy()
    expected = np.mean([sum((s[b, c] - t[b, c]) ** 2 for c in range(5)) / 5 for b in range(3)])
    assert LogitMSE()(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-5)


def test_regression_compares_values():
    student, teacher = pair()
    student.logits, teacher.logits = student.logits[:, :1], teacher.logits[:, :1]
    labels = torch.tensor([0.5, -1.0, 2.0])
    s, t = student.logits[:, 0].numpy(), teacher.logits[:, 0].numpy()
    assert KL()(student, teacher, batch()).item() == pytest.approx(np.mean((s - t) ** 2) / 2, rel=1e-5)
    assert Hard()(student, teacher, batch(labels=labels)).item() == pytest.approx(
        np.mean((s - labels.numpy()) ** 2), rel=1e-5
    )


def products(model: Captured, names: tuple[str, str], at: tuple[int, int, int, int, int], heads: int) -> np.ndarray:
    """Row i of XYᵀ/√d in one head of one example: (layer, example, head, i, real tokens) -> (tokens,)."""
    layer, b, h, i, n = at
    x, y = (model[name, layer][b].numpy() for name in names)
    d = x.shape[-1] // heads
    cut = slice(h * d, h * d + d)
    return np.array([x[i, cut] @ y[j, cut] for j in range(n)]) / np.sqrt(d)


def over_heads(
    models: tuple[Captured, Captured], layers: tuple[int, int], names: tuple[str, str], heads: int, distance
) -> float:
    """Mean over examples of the mean over heads and real queries of distance(teacher's row, student's row)."""
    examples = []
    for b, n in enumerate(REAL):
        rows = [
            distance(*(products(m, names, (at, b, h, i, n), heads) for m, at in zip(models, layers, strict=True)))
            for h in range(heads)
            for i in range(n)
        ]
        examples.append(np.mean(rows))
    return float(np.mean(examples))


def test_attention_kl_equals_the_loop():
    student, teacher = pair()
    per_layer = [over_heads((teacher, student), (i, i), ("q", "k"), 2, kl) for i in (1, 2)]
    assert AttentionKL()(student, teacher, batch()).item() == pytest.approx(np.mean(per_layer), rel=1e-9)
    assert AttentionKL(layers=[2])(student, teacher, batch()).item() == pytest.approx(per_layer[1], rel=1e-9)
    # the student's only layer learns from the teacher's last
    student = captured(depth=1)
    expected = over_heads((teacher, student), (2, 1), ("q", "k"), 2, kl)
    assert AttentionKL()(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-9)


def test_attention_mse_equals_the_loop():
    student, teacher = pair()
    expected = np.mean(
        [over_heads((teacher, student), (i, i), ("q", "k"), 2, lambda t, s: np.mean((t - s) ** 2)) for i in (1, 2)]
    )
    assert AttentionMSE()(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_relations_equal_the_loop_at_other_widths_and_heads(heads):
    student, teacher = pair(student={"heads": 3}, teacher={"width": 12, "heads": 2, "depth": 4})
    weights = {"q": 1.0, "k": 0.5, "v": 2.0}
    per_map = {name: over_heads((teacher, student), (3, 2), (name, name), heads, kl) for name in weights}
    expected = sum(w * per_map[name] for name, w in weights.items()) / sum(weights.values())
    term = Relations(heads=heads, layers=[(2, 3)], **weights)
    assert term(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-9)
    values = Relations(heads=heads, q=0, k=0)
    last = over_heads((teacher, student), (4, 2), ("v", "v"), heads, kl)
    assert values(student, teacher, batch()).item() == pytest.approx(last, rel=1e-9)


def test_hidden_cosine_equals_the_loop():
    student, teacher = pair()
    examples = []
    for b, n in enumerate(REAL):
        s, t = student["hidden", 2][b].numpy(), teacher["hidden", 2][b].numpy()
        examples.append(np.mean([1 - s[i] @ t[i] / np.linalg.norm(s[i]) / np.linalg.norm(t[i]) for i in range(n)]))
    assert HiddenCosine()(student, teacher, batch()).item() == pytest.approx(np.mean(examples), rel=1e-9)


def test_embedding_equals_the_loop():
    student, teacher = pair()
    expected = relative(student["hidden", 0], teacher["hidden", 0], REAL)
    assert Embedding()(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-9)


def test_a_projection_is_learned_where_widths_differ():
    student, teacher = pair(student={"width": 4}, teacher={"width": 6})
    for term, name in ((HiddenStates(), "hidden"), (Embedding(), "hidden"), (HiddenCosine(), "hidden")):
        learned = term.learned(student.shape, teacher.shape, []).double()
        wide = Captured(
            teacher.parts, student.logits, {k: v @ learned[name].weight.T for k, v in student.values.items()}
        )
        expected = term(wide, teacher, batch()).item()
        value = term(student, teacher, batch(), learned)
        assert value.item() == pytest.approx(expected, rel=1e-9)
        value.backward()
        assert learned[name].weight.grad.abs().sum() > 0
    maps = Matrices(layers="all").learned(student.shape, teacher.shape, [])
    assert set(maps) == {"q", "k", "v", "up", "down"} and maps["up"].weight.shape == (6, 4)
    assert HiddenStates().learned(teacher.shape, teacher.shape, []) is None


def test_contrastive_equals_the_loop_and_remembers():
    student, teacher = pair()
    labels = [0, 1, 1, 0, 2, 1, 0]
    term = Contrastive(width=5, negatives=4, temperature=0.5, momentum=0.25)
    torch.manual_seed(1)
    memory = term.learned(student.shape, teacher.shape, labels).double()
    index = torch.tensor([3, 5, 4])
    banks = memory.students.clone(), memory.teachers.clone()
    torch.manual_seed(2)
    drawn = memory.draw(index, 4)
    torch.manual_seed(2)
    value = term(student, teacher, batch(index=index), memory)
    value.backward()

    def norm(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x)

    ours, theirs = (
        [norm(layer(m["hidden", 2][b, 0]).detach().numpy()) for b in range(3)]
        for m, layer in ((student, memory.student), (teacher, memory.teacher))
    )
    total = 0.0
    for a, c, bank in ((ours, theirs, banks[1]), (theirs, ours, banks[0])):
        for b in range(3):
            hit = np.exp(a[b] @ c[b] / 0.5)
            misses = sum(np.exp(a[b] @ bank[j].numpy() / 0.5) for j in drawn[b])
            total -= np.log(hit / (hit + misses)) / 2
    assert value.item() == pytest.approx(total / 3, rel=1e-6)
    assert memory.student.weight.grad.abs().sum() > 0 and memory.teacher.weight.grad.abs().sum() > 0
    for b, i in enumerate(index):
        assert np.allclose(memory.students[i], norm(0.25 * banks[0][i].numpy() + 0.75 * ours[b]))
        assert np.allclose(memory.teachers[i], norm(0.25 * banks[1][i].numpy() + 0.75 * theirs[b]))
    untouched = [i for i in range(7) if i not in index]
    assert torch.equal(memory.students[untouched], banks[0][untouched])


def test_negatives_are_of_other_classes_and_drawn_evenly():
    labels = [0, 1, 1, 0, 2, 1, 0, 2]
    memory = Contrastive().learned(captured().shape, captured().shape, labels)
    drawn = memory.draw(torch.tensor([1, 4]), 30000)
    for row, i in zip(drawn, (1, 4), strict=True):
        counts = torch.bincount(row, minlength=8)
        others = [j for j in range(8) if labels[j] != labels[i]]
        assert counts.sum() == counts[others].sum()
        assert (counts[others] / 30000).numpy() == pytest.approx(1 / len(others), abs=0.01)
    values = Contrastive().learned(captured().shape, captured().shape, [0.5, 0.5, 2.0])  # regression: all but itself
    assert set(values.draw(torch.tensor([1]), 100)[0].tolist()) == {0, 2}
    with pytest.raises(ValueError, match="two classes"):
        Contrastive().learned(captured().shape, captured().shape, [1, 1, 1])


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
    counts = REAL if tokens == "all" else [1, 1, 1]
    expected = np.mean([relative(student["hidden", i], teacher["hidden", i], counts) for i in (1, 2)])
    assert HiddenStates(tokens=tokens)(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-9)


def test_matrices_equal_the_weighted_loop():
    student, teacher = pair()
    weights = {"q": 1.0, "k": 1.0, "v": 2.0, "up": 0.5}
    expected = np.mean(
        [
            sum(w * relative(student[n, i], teacher[n, i], REAL) for n, w in weights.items()) / sum(weights.values())
            for i in (1, 2)
        ]
    )
    term = Matrices(layers="all", maps=weights | {"down": 0})
    assert term(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-9)


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("term", TERMS, ids=lambda t: type(t).__name__)
def test_captured_in_half_precision_the_value_stays(term, dtype):
    """Products of half-precision vectors are rounded before they are compared; nothing else is lost."""
    student, teacher = pair()
    known = batch(mask=MASK)
    low = [
        Captured(m.parts, m.logits.to(dtype), {k: v.to(dtype) for k, v in m.values.items()}) for m in (student, teacher)
    ]
    exact = [Captured(m.parts, m.logits.double(), {k: v.double() for k, v in m.values.items()}) for m in low]
    value = term(*low, known)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(term(*exact, batch()).item(), rel=0.02)


def wanted(term: Objective, *layers: int) -> set[tuple[str, int]]:
    """The teacher's aspects of a term at these layers."""
    return {(name, layer) for name in term.aspects("teacher") for layer in layers}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "deberta-v2"])
def test_captured_scores_are_the_models_own_attention(family):
    """The maps rebuilt beside fused attention against those that the plain attention returns."""
    model = tiny(family)
    aspects = wanted(AttentionKL(), 1, 2) | wanted(HiddenStates(), 0, 1, 2)
    ids, mask = torch.randint(5, 50, (2, 6)), torch.ones(2, 6)
    mask[1, 4:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    with torch.no_grad():
        found = Capture(model, aspects)(model, inputs, aspects)
        model.set_attn_implementation("eager")
        plain = model(**inputs, output_attentions=True, output_hidden_states=True)
    known = Batch(mask=mask, labels=torch.zeros(2))
    assert torch.allclose(found["hidden", 0], plain.hidden_states[0], atol=1e-5)
    for layer in (1, 2):
        rebuilt = found.scores(layer, known).softmax(-1)
        real = mask.bool()[:, None, :, None].expand_as(rebuilt)
        assert torch.allclose(rebuilt[real], plain.attentions[layer - 1][real], atol=1e-5)
        assert torch.allclose(found["hidden", layer], plain.hidden_states[layer], atol=1e-5)


def test_only_what_is_wanted_is_kept():
    model = tiny("bert")
    aspects = wanted(AttentionKL(), 1, 2) | wanted(Matrices(mode="local"), 1, 2) | wanted(Embedding(), 0)
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
    needed = wanted(term, 2)
    with torch.inference_mode():
        theirs = Capture(teacher, needed)(teacher, inputs, needed)
    ours = Capture(student, ())(student, inputs, ())
    known = Batch(mask=torch.ones(2, 6), labels=torch.zeros(2))
    x = theirs["input.up", 2]
    expected = squared_distance(Parts(student).matrix("up", 2)(x.clone()), theirs["up", 2], known.mask).mean()
    value = term(ours, theirs, known)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    value.backward()
    reached = [n for n, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert reached == ["bert.encoder.layer.1.intermediate.dense.weight", "bert.encoder.layer.1.intermediate.dense.bias"]


def shape(depth: int, heads: int = 4, width: int = 8) -> Shape:
    return Shape(depth=depth, heads=heads, widths=dict.fromkeys(NAMES, width), scores="dot")


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "expected"),
    [
        ("skip", 3, 6, [(1, 2), (2, 4), (3, 6)]),
        ("skip", 4, 6, [(1, 2), (2, 3), (3, 4), (4, 6)]),
        ("skip", 5, 12, [(1, 2), (2, 5), (3, 7), (4, 10), (5, 12)]),
        ("skip", 2, 2, [(1, 1), (2, 2)]),
        ("skip", 6, 3, [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3)]),
        ("last", 3, 6, [(3, 6)]),
        ("all", 3, 3, [(1, 1), (2, 2), (3, 3)]),
        ([1, 3], 3, 6, [(1, 1), (3, 3)]),
        ([(1, 4), (3, 5)], 3, 6, [(1, 4), (3, 5)]),
    ],
)
def test_layer_maps(layers, student, teacher, expected):
    assert mapped(layers, student, teacher) == expected


def test_sparse_layers_are_every_kth_and_the_last():
    assert Matrices(every=2).pairs(shape(7), shape(7)) == [(2, 2), (4, 4), (6, 6), (7, 7)]
    assert Matrices(every=3).pairs(shape(6), shape(6)) == [(3, 3), (6, 6)]
    assert Matrices(every=2).pairs(shape(3), shape(6)) == [(2, 4), (3, 6)]


@pytest.mark.parametrize(
    ("term", "student", "teacher", "message"),
    [
        (HiddenStates(layers="all"), shape(3), shape(6), "`all` needs equal depths, not 3 and 6; use `skip`"),
        (HiddenStates(layers=[4]), shape(3), shape(6), r"layers \[4\] do not exist: the student has layers 1 to 3"),
        (HiddenStates(layers=[(3, 7)]), shape(3), shape(6), r"\[7\] do not exist: the teacher has layers 1 to 6"),
        (HiddenStates(layers=[]), shape(3), shape(6), "layers is empty"),
        (AttentionMSE(), shape(3, heads=2), shape(6), "the student has 2, the teacher 4; use `relations`"),
        (AttentionKL(), shape(3, heads=2), shape(6), "the student has 2, the teacher 4; use `relations`"),
        (Relations(heads=3), shape(3), shape(6), "heads 3 does not divide the student's width 8"),
        (Relations(heads=8), shape(3), shape(6, width=12), "heads 8 does not divide the teacher's width 12"),
        (Matrices(mode="local"), shape(6, width=6), shape(6), "widths must be equal"),
    ],
)
def test_what_cannot_be_compared_is_said(term, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        term.pairs(student, teacher)


@pytest.mark.parametrize(
    ("shape", "expected"), [("linear", [4, 3, 2, 2]), ("cosine", [4, 3, 2, 2]), ("step", [4, 4, 2, 2])]
)
def test_ramps(shape, expected):
    ramp = Ramp(start=4, end=2, until=0.5, shape=shape)
    assert [ramp.at(p) for p in (0, 0.25, 0.5, 1)] == pytest.approx(expected)


def test_hierarchies():
    settings = Distill(hierarchy="stages", stage_shares=(0.5, 0.25, 0.25))
    terms = settings.objectives.active()

    def at(settings: Distill, step: int, steps: int, depth: int) -> set[str]:
        pairs = {name: term.pairs(shape(depth), shape(depth)) for name, term in terms.items()}
        return set(turn(settings, step / steps, step, depth).terms(terms, pairs))

    layer = {"attention_kl", "hidden"}
    assert [at(settings, s, 8, 4) for s in range(8)] == [layer] * 4 + [layer | {"matrices"}] * 2 + [{"kl"}] * 2
    tinybert = Distill(hierarchy="stages", stage_shares=(0.5, 0, 0.5))
    assert [at(tinybert, s, 4, 4) for s in range(4)] == [layer] * 2 + [{"kl"}] * 2

    said = Distill(hierarchy="stages", objectives={"kl": {}, "attention_kl": None, "hidden": None, "matrices": None})
    assert [turn(said, s / 4, s, 4).levels for s in range(4)] == [("prediction",)] * 4, "no stage without a term"

    rotate = Distill(hierarchy="rotate")
    taken = [list(turn(rotate, s / 9, s, 6).layers) for s in range(3)]
    assert taken == [[1, 4], [2, 5], [3, 6]]
    # matrices compares layers 2, 4, 6 of 6: all its turns are kept, none is empty
    assert all("matrices" in at(rotate, s, 9, 6) for s in range(3))
    # … and of 3 layers it compares 2 and 3 only: no turn at layer 1
    assert "matrices" not in at(rotate, 0, 9, 3)
