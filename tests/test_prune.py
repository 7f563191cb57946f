"""prune: scores, masks, schedule against plain loops; what is saved is what was trained; a kill loses nothing."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import in_two_processes, reviews
from safetensors.torch import load_file
from test_students import FAMILIES, sentences, teacher
from torch import nn
from transformers import AutoModelForMaskedLM, AutoTokenizer

from stages.corpora.corpus import Corpus
from stages.distillation.objectives import KL, Objectives, Relations
from stages.models.anatomy import Parts
from stages.models.base import load, load_classifier
from stages.pack import pack
from stages.pretrain import pretrain
from stages.prune import prune
from stages.pruning.compact import axes, compact
from stages.pruning.importance import Importance
from stages.pruning.masks import MaskedNorm, Masks
from stages.pruning.schedule import Schedule, Widths
from stages.pruning.targets import resolve
from stages.settings import BadInput, Base, Pack, Pretrain, Prune, Target, Warmup
from stages.tasks import Task
from stages.tracking import Run

PACKED = Pack(block_length=16)
SMALL = {"epochs": 1, "batch_size": 8, "every": 2, "log_every": 1, "learning_rate": 2e-3, "evaluations_per_epoch": 4}


def masked_lm(family: str, layers: int = 2, width: int = 20, neurons: int = 23):
    """A random masked language model of four heads."""
    return AutoModelForMaskedLM.from_config(teacher(family, layers, width, neurons).config).eval()


def said(model) -> torch.Tensor:
    batch = sentences()
    with torch.inference_mode():
        return model(**batch).logits[batch["attention_mask"].bool()]


def drawn(masks: Masks, seed: int = 0) -> dict:
    """A score for every dimension."""
    generator = torch.Generator().manual_seed(seed)
    return {axis: torch.rand(len(gone), generator=generator) for axis, gone in masks.gone().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_that_is_pruned_computes_what_its_compact_copy_does(family):
    """Odd widths, cut twice."""
    model = masked_lm(family)
    before, masks = said(model), Masks(model)
    masks.refresh()
    assert torch.equal(said(model), before), "nothing has gone yet"
    for step, widths in ((3, Widths(residual=17, neurons=19)), (5, Widths(residual=12, neurons=13))):
        masks.cut(drawn(masks, step), widths, step)
        masks.refresh()
    small = compact(model, masks.kept())
    assert (small.config.hidden_size, Parts(small).neurons) == (12, 13)
    assert torch.allclose(said(model), said(small), atol=1e-5)
    assert not torch.allclose(said(small), before, atol=1e-2)


def test_what_goes_is_what_scores_least_of_what_is_there():
    model = masked_lm("bert")
    masks = Masks(model)
    first, second = drawn(masks, 1), drawn(masks, 2)
    masks.cut(first, Widths(residual=16, neurons=20), 3)
    masks.cut(second, Widths(residual=12, neurons=13), 5)
    for axis, gone in masks.gone().items():
        heads = 4 if axis[0] in ("qk", "vo") else 1
        widths = (20, 13) if axis[0] == "ffn" else (16, 12)
        parts = (x.view(heads, -1) for x in (gone, first[axis], second[axis]))
        for part, one, two in zip(*parts, strict=True):
            early = set(range(len(part))) - set(np.argsort(-one.numpy())[: widths[0] // heads].tolist())
            left = sorted(set(range(len(part))) - early, key=lambda i: -two[i])
            expected = [3 if i in early else 5 if i in left[widths[1] // heads :] else 0 for i in range(len(part))]
            assert part.tolist() == expected, axis


def test_gradients_do_not_bring_back_what_has_gone():
    model = masked_lm("bert").train()
    masks = Masks(model)
    masks.cut(drawn(masks), Widths(residual=12, neurons=13), 1)
    masks.refresh()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        batch = sentences()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        masks.apply_masks()
    layout = axes(model)
    for name, weight in model.named_parameters():
        for dimension, axis in enumerate(layout[name]):
            if axis in masks.gone():
                there = masks.gone()[axis] == 0
                slices = weight.detach().transpose(0, dimension)
                assert not slices[~there].any() and slices[there].any(), name
    assert torch.allclose(said(model.eval()), said(compact(model, masks.kept())), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_masked_norm_is_the_norm_of_the_survivors(dtype):
    torch.manual_seed(0)
    there = torch.rand(11) < 0.6
    x = (torch.randn(5, 11) * 3 + 1).masked_fill(~there, 0.0).to(dtype)
    norm = MaskedNorm(11, eps=0.1)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    norm.there, norm.share = there, float(there.float().mean())
    found = norm(x)
    for row, out in zip(x.double(), found, strict=True):
        alive = row[there]
        expected = (alive - alive.mean()) / (alive.var(correction=0) + 0.1).sqrt()
        expected = expected * norm.weight.detach().double()[there] + norm.bias.detach().double()[there]
        assert torch.allclose(out[there].double(), expected, atol=1e-5)
    leaf = x.float().requires_grad_()
    norm(leaf)[:, there].square().sum().backward()
    assert not leaf.grad[:, ~there].any(), "what has gone is not even seen by the gradient"


@pytest.mark.parametrize("metric", ["platon", "sensitivity", "magnitude"])
def test_importance_equals_a_loop_over_the_formula(metric):
    model = masked_lm("bert")
    importance = Importance(model, metric, (0.85, 0.95), seed=0)
    mean, deviation = {}, {}
    for step in range(3):
        torch.manual_seed(step)
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        importance.update()
        for name, weight in model.named_parameters():
            found = (weight.detach() * weight.grad).abs().double()
            mean[name] = 0.85 * mean.get(name, 0) + (1 - 0.85) * found
            deviation[name] = 0.95 * deviation.get(name, 0) + (1 - 0.95) * (found - mean[name]).abs()
    expected: dict = {}
    layout = axes(model)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            score = {
                "platon": mean[name] * deviation[name],
                "sensitivity": mean[name],
                "magnitude": weight.detach().double().abs(),
            }[metric]
            for row in range(weight.shape[0]):
                for dimension, place in ((0, row), (1, slice(None))):
                    if axis := layout[name][dimension]:
                        total = expected.setdefault(axis, torch.zeros(weight.shape[dimension], dtype=torch.float64))
                        total[place] += score[row].sum() if dimension == 0 else score[row]
    scores = importance.scores(3)
    assert scores.keys() == expected.keys()
    for axis, values in scores.items():
        assert torch.allclose(values.double(), expected[axis], rtol=1e-4), axis


def test_random_scores_follow_seed_and_step():
    model = masked_lm("bert")
    one, same, other = (Importance(model, "random", (0.0, 0.0), seed) for seed in (1, 1, 2))
    axis = ("residual", 0)
    assert torch.equal(one.scores(4)[axis], same.scores(4)[axis])
    assert not torch.equal(one.scores(4)[axis], one.scores(5)[axis])
    assert not torch.equal(one.scores(4)[axis], other.scores(4)[axis])


def test_the_schedule_is_the_cubic_one():
    whole, half, third = (Widths(residual=n, neurons=4 * n) for n in (96, 48, 32))
    plan = Schedule(whole=whole, targets=(half, third), warmup=0.1, reached=0.7)
    assert plan.widths(0.049) == whole and plan.widths(0.36) == half and plan.widths(1.0) == third
    for progress in np.linspace(0.05, 0.35, 13):  # the first target's part is half of the training
        x = (2 * progress - 0.1) / 0.6
        assert plan.widths(progress).residual == int(np.ceil(round(48 + 48 * (1 - x) ** 3, 9))), progress
    assert [plan.rate(p) for p in (0.0, 0.025, 0.05, 0.275, 0.525)] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.5])
    assert plan.ends(101) == [50, 101]
    once = Schedule(whole=whole, targets=(half,), warmup=0.1, reached=0.7, shape="oneshot")
    assert (once.widths(0.09), once.widths(0.1)) == (whole, half)


def test_targets_are_met():
    model = masked_lm("bert", layers=3, width=48, neurons=96)
    shares = resolve([0.75, 0.5], model)
    assert shares == (Widths(residual=36, neurons=72), Widths(residual=24, neurons=48))
    assert resolve([Target(hidden_size=36)], model) == (Widths(residual=36, neurons=72),)
    for target in (Target(budget=0.5), Target(budget=0.2), Target(params=int(0.6 * model.num_parameters()))):
        widths = resolve([target], model)[0]
        masks = Masks(copied := compact(model, {}))
        masks.cut(drawn(masks), widths, 1)
        made = compact(copied, masks.kept())
        layers, all_of_it = Parts(made).layer_parameters() / Parts(model).layer_parameters(), made.num_parameters()
        met = layers / target.budget if target.budget else all_of_it / target.params
        assert 0.98 < met <= 1, target
    wide, slim = resolve([Target(hidden_size=24), Target(budget=0.22)], model)
    assert slim.residual < wide.residual and slim.neurons == wide.neurons, "neurons that went do not come back"


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ([0.5, 0.75], "0.75, a hidden size of 36, which is not between 0 and the 24 before it"),
        ([0.001], "a hidden size of 0"),
        ([Target(hidden_size=30)], "hidden_size 30 is no multiple of the model's 4 heads; use one, like 28"),
        ([Target(params=10)], "the narrowest model has"),
    ],
)
def test_targets_that_cannot_be_are_refused(targets, sentence):
    with pytest.raises(BadInput, match=sentence):
        resolve(targets, masked_lm("bert", layers=2, width=48, neurons=96))


def test_settings_that_cannot_work_are_refused():
    for changes, sentence in (
        ({"reached": 0.05}, "reached 0.05 must come after warmup 0.1"),
        ({"targets": [{"hidden_size": 8, "budget": 0.5}]}, "a target is one of"),
        ({"targets": []}, "at least 1"),
        ({"start": {"start": "small"}}, "start.start small is for `factorize`"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Prune(**changes)


# The verbs, on a random model and its own sentences.


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model) -> Path:
    """What pack and pretrain made."""
    place = tmp_path_factory.mktemp("agnostic")
    for verb in ("pack", "pretrain"):
        (place / verb).mkdir()
    (place / "train.txt").write_text("\n".join(text for text, _ in reviews(300)))
    base, data = Base(model=str(tiny_model)), place / "pack/data"
    pack(
        name="mine", corpus=Corpus(source=str(place / "train.txt")), base=base, settings=PACKED, seed=1,
        output=place / "pack", run=Run(),
    )  # fmt: skip
    head = Warmup(steps=100, trains="head", learning_rate=1e-2, batch_size=16)
    found = pretrain(Pretrain(base=base, head=head), data=data, output=place / "pretrain", seed=1, run=Run())
    assert found["fresh_head"] and found["head_loss"] < np.log(200)
    return place


def run(place: Path, output: Path, **changes) -> dict:
    output.mkdir(exist_ok=True, parents=True)
    settings = Prune(**SMALL | {"targets": [Target(hidden_size=24), Target(hidden_size=16)]} | changes)
    return prune(
        settings, PACKED, data=place / "pack/data", teacher=place / "pretrain/model", output=output,
        state=output / "state", seed=1, run=Run(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory) -> Path:
    """What a run with nothing out of the ordinary made; a log is due at none of its checkpoints."""
    output = tmp_path_factory.mktemp("whole")
    run(place, output, log_every=5)
    return output


def weights(output: Path) -> dict[str, torch.Tensor]:
    return {
        f"{f.parent.name}/{k}": v
        for f in sorted(output.glob("models/*/*.safetensors"))
        for k, v in load_file(f).items()
    }


def test_the_body_stays_and_a_head_that_is_there_is_kept(place, tiny_model, tmp_path):
    body = load_file(tiny_model / "model.safetensors")
    made = load_file(place / "pretrain/model/model.safetensors")
    assert all(
        torch.equal(made[f"bert.{name}"], value) for name, value in body.items() if not name.startswith("pooler")
    )
    again = Pretrain(base=Base(model=str(place / "pretrain/model")))
    found = pretrain(again, data=place / "pack/data", output=tmp_path, seed=2, run=Run())
    same = load_file(tmp_path / "model/model.safetensors")
    assert found == {"fresh_head": False} and all(torch.equal(same[name], made[name]) for name in made)


def test_a_family_of_models_comes_out(place, tmp_path):
    found = run(place, tmp_path, learning_rate=5e-3, epochs=4)
    assert list(found) == ["teacher", "2x24", "2x16", "training"]
    assert found["teacher"]["discrepancy"] == 0
    assert found["2x24"]["parameters"] > found["2x16"]["parameters"]
    # what is measured of the saved model is what was trained under its masks
    assert found["2x16"]["perplexity"] == pytest.approx(found["training"]["perplexity"], rel=1e-4)
    table = pd.read_csv(tmp_path / "history.csv")
    first = table[table["loss/kl"].notna()].iloc[0]
    for term in ("kl", "hidden", "attention_mse", "embedding"):
        assert first[f"loss/{term}"] < 1e-6, f"{term}: the student starts as its teacher"
    assert table["kept/residual"].dropna().iloc[[0, -1]].tolist() == [1.0, 0.5]
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    for name in ("discrepancy.png", "gone.png"):
        assert (tmp_path / name).stat().st_size > 5000


def test_a_target_that_is_reached_with_the_last_step_is_met(place, tmp_path):
    assert list(run(place, tmp_path, reached=1.0, every=7)) == ["teacher", "2x24", "2x16", "training"]


def test_a_corpus_of_less_than_a_batch(place, tmp_path):
    assert list(run(place, tmp_path, batch_size=512, epochs=2)) == ["teacher", "2x24", "2x16", "training"]
    with pytest.raises(BadInput, match=r"^prune\.epochs 1 makes too few steps \(1\) for 2 prune\.targets; raise it"):
        run(place, tmp_path / "short", batch_size=512)


def test_distilling_brings_the_student_closer(place, tmp_path):
    imitate = Prune().objectives.model_copy(update={"hard": None})
    trained, cut = (
        run(place, tmp_path / f"{rate}", learning_rate=rate, epochs=4, objectives=imitate)["2x16"]["discrepancy"]
        for rate in (2e-3, 1e-9)
    )
    assert trained < 0.8 * cut


def test_a_stranger_loads_the_model_with_transformers_alone(whole, tmp_path):
    """In a process that knows the installed packages and, without their .pth files (-S), not this project."""
    shutil.copytree(whole / "models/2x16", tmp_path / "alone/model")
    program = (
        "import torch; from importlib.util import find_spec\n"
        "from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer\n"
        "assert find_spec('stages') is None\n"
        "tokenizer = AutoTokenizer.from_pretrained('model')\n"
        "AutoModel.from_pretrained('model')\n"
        "model, report = AutoModelForMaskedLM.from_pretrained('model', output_loading_info=True)\n"
        "assert not any(report.values()), report\n"
        "torch.save(model.eval()(**tokenizer('a good film', return_tensors='pt')).logits.detach(), 'logits.pt')\n"
    )
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=tmp_path / "alone", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(whole / "models/2x16")
    with torch.inference_mode():
        expected = load(whole / "models/2x16")(**tokenizer("a good film", return_tensors="pt")).logits
    assert torch.load(tmp_path / "alone/logits.pt").numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_a_rival_is_cut_at_once(place, tmp_path):
    objectives = Objectives(kl=KL(), relations=Relations(), attention_kl=None, hidden=None, matrices=None)
    settings = {"start": {"layers": "last", "depth": 1, "budget": 0.5}, "objectives": objectives, "epochs": 3}
    found = run(place, tmp_path, **settings)
    assert list(found) == ["teacher", "1x32", "training"]
    assert found["1x32"]["layer_parameters"] == found["teacher"]["layer_parameters"] / 2
    assert (
        found["1x32"]["discrepancy"]
        < run(place, tmp_path / "b", **settings | {"learning_rate": 1e-9})["1x32"]["discrepancy"]
    )
    with pytest.raises(BadInput, match=r"raise prune\.start\.budget or lower prune\.start\.multiple_of$"):
        run(place, tmp_path / "c", start={"budget": 0.4})
    with pytest.raises(BadInput, match=r"^prune\.objectives\.relations: "):
        run(place, tmp_path / "d", **settings | {"objectives": Objectives(relations=Relations(heads=5))})


def test_a_rival_of_low_rank_is_trained_on_the_corpus(place, tmp_path):
    """Its ranks come from the corpus; tied words stay tied; a classifier starts from it with all but the head."""
    start = {"budget": 0.6, "multiple_of": 2}
    found = run(place, tmp_path, start=start, objectives=Objectives())
    share = found["2x32-lowrank"]["layer_parameters"] / found["teacher"]["layer_parameters"]
    assert 0.594 <= share <= 0.6
    folder = tmp_path / "models/2x32-lowrank"
    model, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), "nothing missing, nothing left over"
    assert model.base.get_output_embeddings().weight is model.get_input_embeddings().weight
    task = Task(labels=["bad", "fair", "good"])
    classifier = load_classifier(Base(model=str(folder)), task)
    assert classifier.base.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    body = classifier.base.bert.encoder.state_dict()
    assert all(torch.equal(value, body[name]) for name, value in model.base.bert.encoder.state_dict().items())
    classifier.save_pretrained(tmp_path / "classifier")
    assert load(tmp_path / "classifier")(**sentences()).logits.shape == (3, 3)


@pytest.mark.parametrize("importance", ["platon", "random"])
def test_a_killed_run_resumes_and_ends_with_the_same_weights(importance, place, whole, tmp_path, monkeypatch):
    """Dies between two checkpoints, after the first target was saved; a log is due at neither of them."""
    from transformers import TrainerCallback

    import stages.training

    class Killed(Exception):
        pass

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == round(0.9 * state.max_steps):
                raise Killed

    if importance == "random":
        run(place, whole := tmp_path / "whole", importance=importance, log_every=5)
    original = stages.training.History
    monkeypatch.setattr(stages.training, "History", lambda run: Kill())
    with pytest.raises(Killed):
        run(place, tmp_path / "killed", importance=importance, log_every=5)
    assert not (tmp_path / "killed/models").exists()
    monkeypatch.setattr(stages.training, "History", original)
    run(place, tmp_path / "killed", importance=importance, log_every=5)
    expected, resumed = weights(whole), weights(tmp_path / "killed")
    assert expected.keys() == resumed.keys() and all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert (whole / "history.csv").read_text() == (tmp_path / "killed/history.csv").read_text()


def test_accumulation_cuts_the_same(place, whole, tmp_path):
    run(place, tmp_path / "split", batch_size=2, gradient_accumulation=4)
    run(place, tmp_path / "other", batch_size=4)
    one, split, other = (weights(folder) for folder in (whole, tmp_path / "split", tmp_path / "other"))
    assert max(float((one[name] - split[name]).abs().max()) for name in one) < 1e-3
    assert max(float((one[name] - other[name]).abs().max()) for name in one) > 1e-2


def test_two_processes_cut_the_same_neurons(place, whole, tmp_path):
    in_two_processes(lambda: run(place, tmp_path / "two", batch_size=4))
    one, two = weights(whole), weights(tmp_path / "two")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-3
