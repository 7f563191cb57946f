"""Training: accumulation, processes, resuming and repetition must not change where it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import in_two_processes
from safetensors.torch import load_file

from stages.distill import distill
from stages.evaluate import evaluate
from stages.factorize import factorize
from stages.finetune import finetune
from stages.prepare import prepare
from stages.settings import BadInput, Base, Calibration, Data, Distill, Evaluate, Factorize, Finetune, Prepare
from stages.tasks import Task
from stages.tracking import Run

REVIEWS = Task(text=["text"], labels=["bad", "good"])
SMALL = {"epochs": 2, "batch_size": 16, "log_every": 1, "learning_rate": 1e-3, "warmup": 0.0}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tiny_data) -> Path:
    """A prepared task, its teacher and its student, as the stages leave them."""
    place = tmp_path_factory.mktemp("chain")
    for name in ("prepare", "finetune", "factorize"):
        (place / name).mkdir()
    data = Data(source=str(tiny_data), custom={"reviews": REVIEWS})
    prepare(
        name="reviews",
        task=REVIEWS,
        data=data,
        base=Base(model=str(tiny_model)),
        settings=Prepare(max_length=32),
        seed=1,
        output=place / "prepare",
        run=Run(),
    )
    finetune(
        Finetune(**SMALL),
        base=Base(model=str(tiny_model)),
        data=place / "prepare/data",
        output=place / "finetune",
        state=place / "state",
        seed=1,
        run=Run(),
    )
    factorize(
        Factorize(budget=0.5, multiple_of=1, calibration=Calibration(examples=64)),
        data=place / "prepare/data",
        teacher=place / "finetune/model",
        output=place / "factorize",
        seed=1,
        run=Run(),
    )
    return place


def train_only(place: Path, output: Path, seed: int = 1, **changes) -> dict:
    output.mkdir(exist_ok=True, parents=True)
    return distill(
        Distill(**SMALL | changes),
        data=place / "prepare/data",
        teacher=place / "finetune/model",
        student=place / "factorize/model",
        output=output,
        state=output / "state",
        seed=seed,
        run=Run(),
    )


def run_distill(place: Path, output: Path, seed: int = 1, **changes) -> tuple[dict, dict[str, torch.Tensor]]:
    metrics = train_only(place, output, seed, **changes)
    return metrics, load_file(output / "model/model.safetensors")


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_the_student_is_half_its_teacher_and_comes_closer(place, tmp_path):
    metrics, _ = run_distill(place, tmp_path / "a", epochs=4)
    share = json.loads((place / "factorize/metrics.json").read_text())["layer_share"]
    assert 0.495 <= share <= 0.5
    history = pd.read_csv(tmp_path / "a/history.csv")
    for term in ("kl", "attention_kl", "hidden", "matrices"):
        points = history[f"loss/{term}"].dropna()
        assert points.iloc[-5:].mean() < points.iloc[:5].mean()
    shares = history[[c for c in history if c.startswith("share/")]].dropna()
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1.0)
    rows = evaluate(
        Evaluate(),
        data=place / "prepare/data",
        models={"teacher": place / "finetune/model", "student": tmp_path / "a/model"},
        output=tmp_path,
        seed=0,
        run=Run(),
    )
    assert rows["student"]["score"] == pytest.approx(metrics["accuracy"])
    assert rows["student"]["macs_per_token"] < 0.6 * rows["teacher"]["macs_per_token"]


def test_same_seed_same_weights_and_another_seed_others(place, tmp_path):
    _, first = run_distill(place, tmp_path / "a", epochs=1)
    _, again = run_distill(place, tmp_path / "b", epochs=1)
    _, other = run_distill(place, tmp_path / "c", epochs=1, seed=2)
    assert distance(first, again) == 0
    assert distance(first, other) > 0


def drift(a: Path, b: Path) -> float:
    """Largest difference of two students' weights.

    But for the keys' biases: they add the same to all scores of a query, which the softmax takes out again, so that
    their gradient is rounding noise and Adam makes steps of it (seen: 3e-4 there, 4e-5 at most elsewhere).
    """
    weights = [load_file(m / "model/model.safetensors") for m in (a, b)]
    for w in weights:
        for name in [n for n in w if ".key." in n and n.endswith("bias")]:
            del w[name]
    return distance(*weights)


def test_accumulation_gives_the_same_steps(place, tmp_path):
    train_only(place, tmp_path / "whole", batch_size=8, epochs=1)
    train_only(place, tmp_path / "split", batch_size=2, gradient_accumulation=4, epochs=1)
    train_only(place, tmp_path / "other", batch_size=2, epochs=1)
    assert drift(tmp_path / "whole", tmp_path / "split") < 1e-4
    assert drift(tmp_path / "whole", tmp_path / "other") > 1e-2


def twice_the_batch(place: Path, folder: Path) -> None:
    """Trains into every folder there, named after a hierarchy: not every part is trained in every step."""
    for output in sorted(folder.iterdir()):
        batch_size = 8 if folder.name == "two" else 16
        schedule = {"stage_shares": [0.5, 0.0, 0.5], "epochs": 1}
        train_only(place, output, batch_size=batch_size, hierarchy=output.name, **schedule)


@pytest.fixture(scope="module")
def one_process(place, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "one"
    for hierarchy in ("layers", "stages"):
        (folder / hierarchy).mkdir(parents=True)
    twice_the_batch(place, folder)
    return folder


def launched(place: Path, folder: Path) -> None:
    """As a user does it."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    program = folder.with_name("program.py")
    program.write_text(
        f"import sys; sys.path[:0] = {paths}\n"
        "from pathlib import Path; from test_training import twice_the_batch\n"
        f"twice_the_batch(Path({str(place)!r}), Path({str(folder)!r}))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(program)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


def forked(place: Path, folder: Path) -> None:
    in_two_processes(lambda: twice_the_batch(place, folder))


@pytest.mark.parametrize("start", [forked, launched])
def test_two_processes_are_one_with_twice_the_batch(start, place, one_process, tmp_path):
    """Also where not every part of the student is trained in every step."""
    for hierarchy in ("layers", "stages"):
        (tmp_path / "two" / hierarchy).mkdir(parents=True)
    start(place, tmp_path / "two")
    for hierarchy in ("layers", "stages"):
        one, two = one_process / hierarchy, tmp_path / "two" / hierarchy
        assert drift(one, two) < 1e-4, hierarchy
        losses = [pd.read_csv(folder / "history.csv")["loss/hidden"].dropna() for folder in (one, two)]
        assert losses[0].to_numpy() == pytest.approx(losses[1].to_numpy(), rel=1e-3)  # the mean over both processes


@pytest.mark.parametrize("verb", ["finetune", "distill", "contrastive"])
def test_a_killed_run_resumes_and_ends_at_the_same_place(verb, place, tmp_path, tiny_model, monkeypatch):
    """Dies in the second of three epochs, between two checkpoints, with a half-written checkpoint left behind."""
    from transformers import TrainerCallback

    import stages.training

    def go(output: Path, state: Path):
        output.mkdir(exist_ok=True)
        common = {"data": place / "prepare/data", "output": output, "state": state, "seed": 3, "run": Run()}
        if verb == "finetune":
            finetune(Finetune(**SMALL | {"epochs": 3}), base=Base(model=str(tiny_model)), **common)
        else:
            students = {"teacher": place / "finetune/model", "student": place / "factorize/model"}
            objectives = {"contrastive": {"negatives": 5}} if verb == "contrastive" else {}
            distill(Distill(**SMALL | {"epochs": 3}, objectives=objectives), **students, **common)
        return load_file(output / "model/model.safetensors"), (output / "history.csv").read_text()

    class Killed(Exception):
        pass

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 14:
                raise Killed

    whole = go(tmp_path / "whole", tmp_path / "state-a")
    original = stages.training.History
    monkeypatch.setattr(stages.training, "_Mark", lambda real=stages.training._Mark: real())
    monkeypatch.setattr(stages.training, "History", lambda run: Kill())
    with pytest.raises(Killed):
        go(tmp_path / "killed", tmp_path / "state-b")
    assert not (tmp_path / "killed/model").exists()
    checkpoints = list((tmp_path / "state-b").glob("*/checkpoint-*"))
    assert [c.name for c in checkpoints] == ["checkpoint-10"]
    (checkpoints[0].parent / "checkpoint-13").mkdir()  # killed while writing
    monkeypatch.setattr(stages.training, "History", original)
    resumed = go(tmp_path / "killed", tmp_path / "state-b")
    assert distance(whole[0], resumed[0]) == 0
    assert whole[1] == resumed[1]


def test_checkpoints_of_other_settings_are_not_resumed(place, tmp_path):
    _, expected = run_distill(place, tmp_path / "a", epochs=1, learning_rate=2e-3)
    run_distill(place, tmp_path / "b", epochs=1)
    _, found = run_distill(place, tmp_path / "b", epochs=1, learning_rate=2e-3)
    assert distance(expected, found) == 0


@pytest.mark.parametrize("hierarchy", ["stages", "rotate"])
def test_hierarchies_train(hierarchy, place, tmp_path):
    run_distill(place, tmp_path / "a", hierarchy=hierarchy, epochs=3, stage_shares=(0.34, 0.33, 0.33))
    history = pd.read_csv(tmp_path / "a/history.csv")
    kl, layer = history["loss/kl"].notna(), history["loss/hidden"].notna()
    assert (kl & layer).any() == (hierarchy == "rotate")
    assert kl.any() and layer.any()


def test_gradient_norms_equal_backward(place, tmp_path):
    run_distill(
        place,
        tmp_path / "a",
        epochs=0.1,
        gradient_norms=True,
        objectives={"kl": None, "attention_kl": None, "matrices": None, "hidden": {"weight": 1.0}},
    )
    history = pd.read_csv(tmp_path / "a/history.csv")
    # with one term its norm is the whole gradient's, which the Trainer takes for itself
    assert history["gradient/hidden"].dropna().to_numpy() == pytest.approx(
        history["grad_norm"].dropna().to_numpy(), rel=1e-4
    )


def test_a_narrower_student_learns_by_projections_that_it_does_not_keep(place, tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(place / "finetune/model")
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = config.hidden_size // 2, 24, 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "narrow")
    terms = {"hidden": {}, "embedding": {}, "hidden_cosine": {}, "matrices": {}, "relations": {}, "contrastive": {}}
    distill(
        Distill(
            **SMALL,
            hierarchy="layers",
            objectives=terms | {"attention_mse": {"weight": {"start": 0, "end": 1, "until": 0.5}}},
        ),
        data=place / "prepare/data",
        teacher=place / "finetune/model",
        student=tmp_path / "narrow",
        output=tmp_path,
        state=tmp_path / "state",
        seed=1,
        run=Run(),
    )
    kept, known = load_file(tmp_path / "model/model.safetensors"), load_file(tmp_path / "narrow/model.safetensors")
    assert kept.keys() == known.keys()
    history = pd.read_csv(tmp_path / "history.csv")
    for name in set(terms) - {"contrastive"}:  # that one gets harder while its memory fills
        assert history[f"loss/{name}"].iloc[-3:].mean() < history[f"loss/{name}"].iloc[:3].mean(), name
    assert history["share/attention_mse"].iloc[0] == 0 < history["share/attention_mse"].iloc[-2]


def test_contrast_without_a_second_class_is_refused(place, tmp_path):
    with pytest.raises(BadInput, match=r"distill.objectives.contrastive: needs training examples of two classes"):
        from stages.distillation.trainer import DistillationTrainer
        from stages.models.base import load
        from stages.tasks.splits import read_split

        split = read_split(place / "prepare/data", "train").filter(lambda row: row["labels"] == 1)
        model = load(place / "finetune/model")
        settings = Distill(objectives={"contrastive": {}})
        DistillationTrainer(model, teacher=model, distill=settings, train_dataset=split)


def test_a_layer_that_does_not_exist_is_refused_before_training(place, tmp_path):
    with pytest.raises(BadInput, match=r"distill.objectives.hidden: layers \[7\] do not exist: .* layers 1 to 2"):
        run_distill(place, tmp_path / "a", objectives={"hidden": {"layers": [1, 7]}})


def test_a_budget_of_one_is_the_teacher(place, tmp_path):
    metrics = factorize(
        Factorize(budget=1, multiple_of=1, calibration=Calibration(examples=32)),
        data=place / "prepare/data",
        teacher=place / "finetune/model",
        output=tmp_path,
        seed=1,
        run=Run(),
    )
    assert metrics["layer_share"] == 1 and metrics["mean_output_error"] == 0
    rows = evaluate(
        Evaluate(),
        data=place / "prepare/data",
        models={"teacher": place / "finetune/model", "student": tmp_path / "model"},
        output=tmp_path,
        seed=0,
        run=Run(),
    )
    assert rows["student"]["agreement"] == 100
    assert rows["student"]["score"] == rows["teacher"]["score"]
