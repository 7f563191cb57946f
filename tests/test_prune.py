"""prune, on a random model and its own sentences: what is saved is what was trained; a kill loses nothing."""

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
from test_students import sentences
from transformers import AutoModelForMaskedLM, AutoTokenizer

from stages.corpora.corpus import Corpus
from stages.distillation.objectives import KL, Objectives, Relations
from stages.models.base import load, load_classifier
from stages.pack import pack
from stages.pretrain import pretrain
from stages.prune import prune
from stages.settings import BadInput, Base, Pack, Pretrain, Prune, Target, Warmup
from stages.tasks import Task
from stages.tracking import Run

PACKED = Pack(block_length=16)
SMALL = {"epochs": 1, "batch_size": 8, "every": 2, "log_every": 1, "learning_rate": 2e-3, "evaluations_per_epoch": 4}


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
        run(place, tmp_path / f"{rate}", learning_rate=rate, epochs=2, objectives=imitate)["2x16"]["discrepancy"]
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
