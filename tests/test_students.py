"""Students by depth and width: the right layers, cut right, within the budget, plain where nothing is factorized."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_lowrank import tiny
from torch import Tensor, nn

from stages.factorize import factorize
from stages.lowrank.budget import room
from stages.lowrank.modeling import LowRankModel
from stages.lowrank.reduce import reduce
from stages.models.anatomy import Parts
from stages.models.base import load
from stages.models.layers import chosen, keep_layers
from stages.pruning.compact import axes, compact
from stages.pruning.cut import cut
from stages.pruning.magnitude import largest
from stages.pruning.plan import Plan, Sizes, fit
from stages.settings import BadInput, Base, Calibration, Data, Distill, Evaluate, Factorize, Prepare
from stages.tasks import Task
from stages.tracking import Run

FAMILIES = ["bert", "roberta", "xlm-roberta", "electra", "distilbert"]
ALL = [1, 2, 3, 4, 5, 6]
REVIEWS = Task(text=["text"], labels=["bad", "good"])


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


# The verb as a whole, on a task.


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tiny_data) -> Path:
    """A prepared task and a random teacher of six layers, saved as finetune does."""
    from transformers import AutoTokenizer

    from stages.prepare import prepare

    place = tmp_path_factory.mktemp("students")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    whole = teacher("bert", vocab_size=len(tokenizer), max_position_embeddings=128)
    whole.save_pretrained(place / "teacher")
    tokenizer.save_pretrained(place / "teacher")
    data = Data(source=str(tiny_data), custom={"reviews": REVIEWS})
    base, settings = Base(model=str(tiny_model)), Prepare(max_length=32)
    prepare(name="reviews", task=REVIEWS, data=data, base=base, settings=settings, seed=1, output=place, run=Run())
    return place


def student(place: Path, output: Path, **settings) -> dict:
    output.mkdir(exist_ok=True)
    settings = Factorize(multiple_of=1, calibration=Calibration(examples=1000), **settings)
    return factorize(settings, data=place / "data", teacher=place / "teacher", output=output, seed=1, run=Run())


@pytest.mark.parametrize(
    ("settings", "described"),
    [
        ({"layers": "every"}, {"layers": [2, 4, 6], "hidden_size": 32, "intermediate_size": 64}),
        (
            {"hidden_size": 16, "budget": 0.3},
            {"layers": [1, 2, 3, 4, 5, 6], "hidden_size": 16, "intermediate_size": 42},
        ),
        ({"budget": 1.0}, {"layers": ALL, "hidden_size": 32, "intermediate_size": 64}),
    ],
)
def test_a_student_without_factors_is_a_plain_model(place, tmp_path, settings, described):
    """A stranger loads it whole, with no code of ours; tables and plots are there all the same."""
    from transformers import AutoModelForSequenceClassification

    metrics = student(place, tmp_path, **settings)
    again, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert type(again).__name__ == "BertForSequenceClassification" and not any(report.values())
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {name: metrics[name] for name in described} == described
    assert 0.99 * settings.get("budget", 0.5) <= metrics["layer_share"] <= settings.get("budget", 0.5)
    assert (tmp_path / "spectra.png").is_file()
    table = pd.read_csv(tmp_path / "ranks.csv")
    assert table.empty and {"module", "rank", "output_error"} <= set(table.columns)
    if "hidden_size" not in settings:
        expected = keep_layers(load(place / "teacher"), described["layers"])
        assert torch.equal(outputs(again.eval(), sentences()), outputs(expected, sentences()))


def test_calibration_sees_the_student_not_the_teacher(place, tmp_path):
    """The table's output error of a matrix behind a dropped layer is that on the cut model's own activations."""
    from stages.tasks.splits import read_split

    metrics = student(place, tmp_path, layers="every", budget=0.25)
    assert metrics["layers"] == [3, 6] and 0.2475 <= metrics["layer_share"] <= 0.25
    name, seen = "bert.encoder.layer.1.attention.self.query", []
    dense, thin = keep_layers(load(place / "teacher"), [3, 6]), load(tmp_path / "model").base.get_submodule(name)
    module = dense.get_submodule(name)
    module.register_forward_hook(lambda m, args, out: seen.append(args[0][0]))
    with torch.inference_mode():
        for ids in read_split(place / "data", "train")["input_ids"]:
            dense(torch.tensor([ids]))
        x = torch.cat(seen).double()
        missed = module.double()(x) - thin.double()(x)
        lost, whole = ((y - y.mean(0)).norm() for y in (missed, x @ module.weight.T))
    table = pd.read_csv(tmp_path / "ranks.csv").set_index("module")
    assert len(table) == 12 and table.output_error[name] == pytest.approx(float(lost / whole), rel=1e-3)
    assert missed.mean(0).abs().max() < 1e-4, "the bias takes the mean up"


def narrow(place: Path, folder: Path, words: int | None = None) -> float:
    """A pretrained model without a task's head, narrower than the teacher; returns its share of the layers."""
    from transformers import BertConfig, BertModel

    config = BertConfig.from_pretrained(place / "teacher")
    config.hidden_size, config.intermediate_size = 16, 64
    config.vocab_size = words or config.vocab_size
    made = BertModel(config)
    made.save_pretrained(folder)
    return Parts(made).layer_parameters() / Parts(load(place / "teacher")).layer_parameters()


def test_a_student_may_start_from_another_pretrained_model(place, tmp_path):
    """As it is where it fits the budget, factorized where it does not."""
    share = narrow(place, tmp_path / "small")
    metrics = student(place, tmp_path / "whole", start=str(tmp_path / "small"), budget=share)
    assert metrics["layer_share"] == pytest.approx(share) and metrics["hidden_size"] == 16
    known, made = (load_file(tmp_path / name / "model.safetensors") for name in ("small", "whole/model"))
    inside = [name for name in known if name.startswith("encoder")]
    assert inside and all(torch.equal(known[name], made[f"bert.{name}"]) for name in inside)
    metrics = student(place, tmp_path / "factors", start=str(tmp_path / "small"), budget=0.6 * share)
    assert 0.99 * 0.6 * share <= metrics["layer_share"] <= 0.6 * share


def test_a_start_that_cannot_be_is_refused(place, tmp_path):
    narrow(place, tmp_path / "small"), narrow(place, tmp_path / "other", words=77)
    for start, sentence in (
        ("small", r"makes \d+\.\d% of the teacher's parameters, too little for factorize\.budget 0\.9"),
        ("other", "has 77 words, the teacher "),
        ("nowhere", r"factorize\.start .*nowhere is not a folder"),
    ):
        with pytest.raises(BadInput, match=sentence):
            student(place, tmp_path / "out", start=str(tmp_path / start), budget=0.9)
    with pytest.raises(BadInput, match=r"^factorize\.start outputs/prune/nowhere/6x192 is not a folder"):
        student(place, tmp_path / "out", start="outputs/prune/nowhere/6x192", budget=0.9)
    with pytest.raises(ValueError, match="start small is taken as it is"):
        Factorize(start="small", hidden_size=8)


def test_later_verbs_take_a_plain_student(place, tmp_path):
    """Scored, distilled on the logits, and exported."""
    import onnxruntime

    from stages.distill import distill
    from stages.evaluate import evaluate
    from stages.graph.trace import trace

    student(place, tmp_path, layers="last", depth=1, budget=0.167)
    models = {"teacher": place / "teacher", "student": tmp_path / "model"}
    scored = evaluate(Evaluate(), data=place / "data", models=models, output=tmp_path, seed=1, run=Run())
    assert scored["student"]["layer_parameters"] * 6 == scored["teacher"]["layer_parameters"]
    (tmp_path / "distilled").mkdir()
    none = dict.fromkeys(Distill().objectives.active())
    distill(
        Distill(epochs=0.2, log_every=1, objectives=none | {"kl": {"weight": 1.0}}),
        data=place / "data",
        teacher=models["teacher"],
        student=models["student"],
        output=tmp_path / "distilled",
        state=tmp_path / "state",
        seed=1,
        run=Run(),
    )
    trained = load(tmp_path / "distilled/model")
    assert type(trained).__name__ == "BertForSequenceClassification" and trained.config.num_hidden_layers == 1
    trace(trained, ["input_ids", "attention_mask"], tmp_path / "model.onnx")
    feed = {name: tensor.numpy() for name, tensor in sentences().items()}
    found = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["logits"], feed)[0]
    assert torch.allclose(torch.from_numpy(found), outputs(trained, sentences()), atol=1e-5)
