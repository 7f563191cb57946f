"""Students by depth and width: the right layers, cut right, within the budget, plain where nothing is factorized."""

import pytest
import torch
from test_lowrank import tiny
from torch import Tensor, nn

from stages.lowrank.budget import room
from stages.lowrank.modeling import LowRankModel
from stages.lowrank.reduce import reduce
from stages.models.anatomy import Parts
from stages.models.layers import chosen, keep_layers
from stages.pruning.compact import axes, compact
from stages.pruning.cut import cut
from stages.pruning.magnitude import largest
from stages.pruning.plan import Plan, Sizes, fit
from stages.settings import BadInput, Factorize

FAMILIES = ["bert", "roberta", "xlm-roberta", "electra", "distilbert"]
ALL = [1, 2, 3, 4, 5, 6]


def teacher(family: str, layers: int = 6, width: int = 32, neurons: int = 64, **changes):
    """A random classifier of four heads, its weights large enough for its parts to matter."""
    shape = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": neurons}
    if family == "distilbert":
        shape = {"n_layers": layers, "dim": width, "hidden_dim": neurons}
    if family == "electra":
        shape["embedding_size"] = 7
    return tiny(family, **{"initializer_range": 0.3, "max_position_embeddings": 40} | shape | changes)


def sentences(rows: int = 3, words: int = 9) -> dict[str, Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(rows, words, dtype=torch.long)
    mask[1, 6:], mask[2, 4:] = 0, 0
    return {"input_ids": torch.randint(5, 50, (rows, words)), "attention_mask": mask}


@pytest.mark.parametrize(
    ("layers", "depth", "of", "kept"),
    [
        ("every", 3, 6, [2, 4, 6]),
        ("every", 2, 6, [3, 6]),
        ("every", 1, 6, [6]),
        ("every", 4, 6, [2, 3, 4, 6]),
        ("every", 5, 12, [2, 5, 7, 10, 12]),
        ("every", 6, 6, [1, 2, 3, 4, 5, 6]),
        ("first", 2, 6, [1, 2]),
        ("last", 2, 6, [5, 6]),
        ("all", 1, 3, [1, 2, 3]),
        ([2, 5], 9, 6, [2, 5]),
    ],
)
def test_which_layers_are_chosen(layers, depth, of, kept):
    assert chosen(layers, depth, of) == kept


@pytest.mark.parametrize("family", [*FAMILIES, "deberta-v2"])
def test_kept_layers_are_the_teachers(family):
    whole = teacher(family, layers=4)
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    student = keep_layers(whole, [2, 4])
    at = {"distilbert": "distilbert.transformer.layer", "xlm-roberta": "roberta.encoder.layer"}
    at = at.get(family, f"{family.removesuffix('-v2')}.encoder.layer")
    kept = student.state_dict()
    assert student.config.num_hidden_layers == 2 and {n.split(".")[3] for n in kept if n.startswith(at)} == {"0", "1"}
    for name, value in kept.items():
        source = name.replace(f"{at}.1.", f"{at}.3.").replace(f"{at}.0.", f"{at}.1.")
        assert torch.equal(value, before[source]), name
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items()), "the teacher changed"


@pytest.mark.parametrize("family", [*FAMILIES, "deberta-v2"])
@pytest.mark.parametrize("settings", [{"layers": "every"}, {"layers": "last", "depth": 3}, {"layers": [1, 2, 6]}])
def test_layers_and_low_rank_together_meet_the_budget(family, settings):
    whole = teacher(family)
    settings = Factorize(budget=0.25, multiple_of=1, decomposition="svd", **settings)
    start = cut(whole, fit(settings, whole))
    made = reduce(settings, start, room(settings, whole, start), [sentences() | {"labels": torch.tensor([0, 1, 1])}])
    assert isinstance(made.model, LowRankModel)
    share = Parts(made.model).layer_parameters() / Parts(whole).layer_parameters()
    assert 0.2475 <= share <= 0.25
    assert Parts(made.model).depth == (2 if settings.layers == "every" else 3)


def test_everything_counted_the_embedding_factorized():
    whole = teacher("bert")
    settings = Factorize(budget=0.5, count="all", layers="last", embeddings=8, multiple_of=1, decomposition="svd")
    plan = fit(settings, whole)
    layer, rest = Parts(whole).layer_parameters() // 6, whole.num_parameters() - Parts(whole).layer_parameters()
    rest += 8 * (50 + 32) - 50 * 32
    fewest = next(n for n in range(1, 7) if n * layer + rest >= 0.99 * 0.5 * whole.num_parameters())
    assert len(plan.layers) == fewest
    start = cut(whole, plan)
    made = reduce(settings, start, room(settings, whole, start), [sentences() | {"labels": torch.tensor([0, 1, 1])}])
    assert 0.495 <= made.model.num_parameters() / whole.num_parameters() <= 0.5


# Narrower models, against the whole one with the other dimensions masked.


class MaskedNorm(nn.Module):
    """A layer norm whose statistics are those of the surviving dimensions; the others come out as 0."""

    def __init__(self, norm: nn.LayerNorm, mask: Tensor) -> None:
        super().__init__()
        self.norm, self.mask = norm, mask

    def forward(self, x: Tensor) -> Tensor:
        count = self.mask.sum()
        mean = (x * self.mask).sum(-1, keepdim=True) / count
        variance = ((x - mean).square() * self.mask).sum(-1, keepdim=True) / count
        return ((x - mean) / (variance + self.norm.eps).sqrt() * self.norm.weight + self.norm.bias) * self.mask


def masked(model, width: int, neurons: int, kept: dict) -> None:
    """Turns the model into its masked self: zeros wherever a dimension is dropped."""

    def mask(axis: tuple[str, int], size: int) -> Tensor:
        return torch.zeros(size).index_fill(0, kept[axis], 1.0) if axis in kept else torch.ones(size)

    residual = mask(("residual", 0), width)
    seen = dict.fromkeys(("q", "k", "v", "down"), 0)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.LayerNorm) and module.normalized_shape == (width,):
            model.set_submodule(name, MaskedNorm(module, residual))
        if name.endswith("embeddings_project"):
            module.register_forward_hook(lambda m, i, out: out * residual)
        for kind, ends in {"q": ("query", "q_lin"), "k": ("key", "k_lin"), "v": ("value", "v_lin")}.items():
            if name.endswith(ends):
                seen[kind] += 1
                heads = mask(("vo" if kind == "v" else "qk", seen[kind]), width)
                module.register_forward_hook(lambda m, i, out, heads=heads: out * heads)
        if isinstance(module, nn.Linear) and module.in_features == neurons:
            seen["down"] += 1
            alive = mask(("ffn", seen["down"]), neurons)
            module.register_forward_pre_hook(lambda m, args, alive=alive: (args[0] * alive,))
    for name in ("classifier.out_proj", "classifier"):
        if isinstance(head := dict(model.named_modules()).get(name), nn.Linear):
            head.register_forward_pre_hook(lambda m, args: (args[0] * mask(("head", 0), width),))
    assert seen == dict.fromkeys(seen, 2)


def drawn(layers: int, width: int, neurons: int, heads: int, to: tuple[int, int], head: bool) -> dict:
    """Dimensions that stay, drawn anew for each axis."""

    def some(of: int, count: int) -> Tensor:
        return torch.randperm(of)[:count].sort().values

    def of_each() -> Tensor:
        size = width // heads
        return torch.cat([some(size, to[0] // heads) + h * size for h in range(heads)])

    kept = {("residual", 0): some(width, to[0])} | ({("head", 0): some(width, to[0])} if head else {})
    for layer in range(1, layers + 1):
        kept |= {("qk", layer): of_each(), ("vo", layer): of_each(), ("ffn", layer): some(neurons, to[1])}
    return kept


def outputs(model, batch: dict[str, Tensor]) -> Tensor:
    """Logits of the real tokens, or of the sentences."""
    with torch.inference_mode():
        logits = model(**batch).logits
    return logits[batch["attention_mask"].bool()] if logits.ndim == 3 else logits


@pytest.mark.parametrize("family", [*FAMILIES, "electra of one width"])
@pytest.mark.parametrize("task", ["classifier", "masked_lm"])
def test_compact_is_the_masked_model(family, task, tmp_path):
    """Odd sizes: 5 to 3 dimensions a head, 23 to 13 neurons; also with the feed-forward alone cut."""
    one_width = {"embedding_size": 20} if family == "electra of one width" else {}
    family = family.split()[0]
    whole = teacher(family, 2, 20, 23, **one_width)
    if task == "masked_lm":
        from transformers import AutoModelForMaskedLM

        whole = AutoModelForMaskedLM.from_config(whole.config).eval()
    batch = sentences()
    if family in ("bert", "electra"):
        batch["token_type_ids"] = (torch.arange(9) > 4).long().expand(3, -1)
    expected = outputs(whole, batch)
    kept = drawn(2, 20, 23, 4, (12, 13), task == "classifier")
    student = compact(whole, kept)
    neurons = {axis: indices for axis, indices in kept.items() if axis[0] == "ffn"}
    shorter, same = compact(whole, neurons), compact(whole, {})
    assert torch.equal(outputs(same, batch), expected)
    found = outputs(student, batch), outputs(shorter, batch)
    masked(other := compact(whole, {}), 20, 23, neurons)
    assert torch.allclose(found[1], outputs(other, batch), atol=1e-5)
    masked(whole, 20, 23, kept)
    assert torch.allclose(found[0], outputs(whole, batch), atol=1e-5)
    assert found[0].std() > 0.05 and not torch.allclose(found[0], expected, atol=1e-2)
    student.save_pretrained(tmp_path)
    again, report = type(student).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()) and torch.equal(outputs(again.eval(), batch), found[0])
    assert (student.config.hidden_size, Parts(again).neurons, Parts(again).heads) == (12, 13, 4)


def test_heads_of_different_sizes_are_refused():
    whole = teacher("bert", 1)
    for wrong in (torch.arange(8), torch.tensor([8, 9, 0, 1, 16, 17, 24, 25]), torch.tensor([0, 1, 8, 9, 16, 17, 24])):
        with pytest.raises(ValueError, match=r"qk of layer 1: [78] indices are not the same number of each of 4 heads"):
            compact(whole, {("residual", 0): torch.arange(8), ("qk", 1): wrong})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_dimensions_that_stay_are_those_that_are_used(family):
    """Dimensions whose weights are a tenth of the others' are the ones that go, from each axis its own."""
    whole = teacher(family, 2, 20, 23)
    wanted = drawn(2, 20, 23, 4, (12, 13), head=True)
    layout = axes(whole)
    for name, weight in whole.named_parameters():
        for side, axis in enumerate(layout[name]):
            if weight.ndim == 2 and axis in wanted:
                weight.data *= (
                    torch.full((weight.shape[side],), 0.1).index_fill(0, wanted[axis], 1.0).unsqueeze(1 - side)
                )
    kept = largest(whole, 12, 13)
    assert kept.keys() == wanted.keys()
    assert [axis for axis in kept if not torch.equal(kept[axis], wanted[axis])] == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", ["layers", "all"])
def test_sizes_are_those_of_the_models(family, count):
    whole = teacher(family)
    made = cut(whole, Plan(layers=[1, 4, 5], width=20, neurons=30))
    size = Parts(made).layer_parameters() if count == "layers" else made.num_parameters()
    assert Sizes(whole, count, None)(3, 20, 30) == size


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"layers": "every"}, {"layers": "first", "depth": 4}])
def test_a_narrower_student_meets_the_budget_without_factors(family, settings):
    whole = teacher(family, width=64, neurons=256)
    settings = Factorize(budget=0.2, hidden_size=32, multiple_of=1, **settings)
    plan = fit(settings, whole)
    start = cut(whole, plan)
    assert room(settings, whole, start) is None
    assert 0.198 <= Parts(start).layer_parameters() / Parts(whole).layer_parameters() <= 0.2
    assert len(plan.layers) == {"all": 6, "every": 3, "first": 4}[settings.layers]
    assert Parts(start).width == 32


def test_an_explicit_inner_width_is_met_by_low_rank():
    whole = teacher("bert", width=64, neurons=256)
    settings = Factorize(budget=0.2, hidden_size=32, intermediate_size=200, multiple_of=1, decomposition="svd")
    start = cut(whole, fit(settings, whole))
    assert Parts(start).neurons == 200
    made = reduce(settings, start, room(settings, whole, start), [sentences() | {"labels": torch.tensor([0, 1, 1])}])
    assert 0.198 <= Parts(made.model).layer_parameters() / Parts(whole).layer_parameters() <= 0.2


def test_a_budget_a_hair_over_a_depth_keeps_it_dense():
    whole = teacher("bert")
    assert fit(Factorize(budget=0.334, layers="every"), whole).layers == [3, 6]
    assert fit(Factorize(budget=0.5, layers="every"), whole).layers == [2, 4, 6]
    assert fit(Factorize(budget=0.51, layers="every"), whole).layers == [2, 3, 4, 6]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"layers": [2, 7]}, r"factorize.layers \[7\] does not exist: the teacher has layers 1 to 6"),
        ({"layers": "first", "depth": 7}, r"factorize.depth 7 is more than the teacher's 6 layers"),
        (
            {"layers": "every", "depth": 2},
            r"factorize.depth 2 makes 33.3% of the teacher's layer parameters, too little for factorize.budget 0.5; "
            r"the smallest depth that works is 3",
        ),
        ({"layers": [1, 6]}, r"factorize.layers \[1, 6\] makes 33.3% .* smallest depth that works is 3"),
        ({"hidden_size": 30}, r"factorize.hidden_size 30 must be a multiple of the teacher's 4 heads .* like 28"),
        ({"hidden_size": 32}, r"factorize.hidden_size 32 must be .* less than its 32, like 28"),
        ({"hidden_size": 3}, r"factorize.hidden_size 3 must be a multiple of the teacher's 4 heads .* like 4"),
        ({"intermediate_size": 65}, r"factorize.intermediate_size 65 is more than the teacher's 64"),
        (
            {"intermediate_size": 1},
            r"factorize.intermediate_size 1 with 6 layers makes 52.1% of .* factorize.budget 0.9; "
            r"factorize.budget 0.52 would do",
        ),
        (
            {"hidden_size": 16},
            r"factorize.hidden_size 16 with 6 layers makes 38.4% .*; factorize.budget 0.383 would do, "
            r"or factorize.hidden_size 20",
        ),
        ({"hidden_size": 28, "budget": 0.3}, r"factorize.hidden_size 28 leaves nothing for the feed-forward"),
        (
            {"hidden_size": 16, "budget": 0.3, "multiple_of": 32},
            r"factorize.multiple_of 32 is too coarse .* or give factorize.intermediate_size 43",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(settings, sentence):
    budget = 0.9 if "intermediate_size" in settings else 0.5
    with pytest.raises(BadInput, match=sentence):
        fit(Factorize(**{"budget": budget} | settings), teacher("bert"))
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"budget": 0.01}, r"factorize.budget 0.01 of 51,264 parameters is less than the 2,112 that .* above 0.05$"),
        ({"budget": 0.1, "count": "all"}, r"that cannot be factorized; .* or set factorize.embeddings"),
        ({"embeddings": 20}, r"factorize.embeddings 20 saves nothing on a \(50, 32\) embedding; use less than 20"),
    ],
)
def test_what_low_rank_cannot_meet_is_refused_before_calibration(settings, sentence):
    whole = teacher("bert")
    with pytest.raises(BadInput, match=sentence):
        room(Factorize(**settings), whole, whole)


def test_families_that_cannot_be_narrowed_say_so():
    with pytest.raises(BadInput, match=r"`deberta-v2` cannot be narrowed .*; those that can are bert, roberta"):
        fit(Factorize(hidden_size=16), teacher("deberta-v2"))
    with pytest.raises(
        BadInput, match="hidden_size 8 is the embedding's own width, at which electra has no projection"
    ):
        fit(Factorize(hidden_size=8, budget=0.1), teacher("electra", embedding_size=8))
