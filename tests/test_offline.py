"""The offline teacher: what is read from disk teaches as the teacher itself does, or as one that says no more."""

import multiprocessing
import os
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SUMS, in_two_processes, prepared
from test_training import drift, train_only

import stages.models.base
from stages.distillation import offline
from stages.factorize import factorize
from stages.finetune import finetune
from stages.models.base import load
from stages.settings import BadInput, Base, Distill, Factorize, Finetune, Offline, Params
from stages.tasks import Task
from stages.tasks.splits import read_split
from stages.tracking import Run

WHOLE = {"k": 1000, "dtype": "float32"}
"""More than the classes of any task here."""
TERMS = {"kl": {}, "jsd": {}, "hard": {}, "logit_mse": {}, **dict.fromkeys(["attention_kl", "hidden", "matrices"])}
"""Objectives that look at logits alone."""
SAYS = {"hierarchy": "layers", "epochs": 2, "objectives": TERMS}


@pytest.fixture(scope="module", params=["reviews", "sums"])
def place(request, tmp_path_factory, tiny_model, tiny_data, tiny_decoder, tiny_text) -> Path:
    """A prepared task, its teacher, its student; `reviews` with further sentences."""
    place = tmp_path_factory.mktemp(request.param)
    for name in ("finetune", "factorize"):
        (place / name).mkdir()
    if request.param == "reviews":
        task, base, source = Task(text=["text"], labels=["bad", "good"]), tiny_model, tiny_data
        more = {"augment": {"copies": 1, "source": "neighbors"}}
    else:
        task, base, source, more = SUMS, tiny_decoder, tiny_text, {}
    data, _ = prepared(base, source, place / "prepare", request.param, task, **more)
    known = {"data": data, "seed": 1, "run": Run()}
    settings = Finetune(epochs=2, batch_size=16, learning_rate=3e-3, warmup=0.0)
    finetune(settings, base=Base(model=str(base)), output=place / "finetune", state=place / "state", **known)
    made = Factorize(budget=0.6, multiple_of=1, decomposition="svd")
    factorize(made, teacher=place / "finetune/model", output=place / "factorize", **known)
    return place


@pytest.fixture
def ran(place, monkeypatch) -> Counter:
    """How often the teacher ran, under `examples` with how many examples."""
    counts: Counter[str] = Counter()

    def count(module: torch.nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        counts["forwards"] += 1
        counts["examples"] += len(kwargs["input_ids"])

    watched(monkeypatch, place, lambda teacher: teacher.register_forward_hook(count, with_kwargs=True))
    return counts


def watched(monkeypatch: pytest.MonkeyPatch, place: Path, hook) -> None:
    """Applies `hook` to the teacher wherever a stage loads it."""

    def loaded(folder: Path, **options) -> torch.nn.Module:
        model = load(folder, **options)
        if folder == place / "finetune/model":
            hook(model)
        return model

    monkeypatch.setattr(stages.models.base, "load", loaded)


def truncated(logits: np.ndarray, k: int) -> np.ndarray:
    """z' of rows (rows, classes), one by one in float64, from the mass of those that are not kept."""
    found = np.empty(logits.shape)
    for row, z in enumerate(logits.astype(np.float64)):
        others = np.argsort(z)[:-k]
        found[row] = z
        found[row, others] = np.log(np.mean(np.exp(z[others] - z.max()))) + z.max()
    return found


def losses(output: Path) -> np.ndarray:
    """Every term in every step."""
    table = pd.read_csv(output / "history.csv")
    return table[[name for name in table if name.startswith("loss/")]].dropna().to_numpy()


def stored(output: Path) -> list[Path]:
    return sorted((output / "state").glob("teacher-*"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("classes", "k"), [(300, 7), (300, 1), (70000, 64), (6, 6), (1, 4)])
def test_what_is_read_are_the_largest_logits_and_the_others_mass(classes, k, dtype, tmp_path):
    """Examples of different numbers of rows, written in another order than they are read; logits far from 0."""
    draw, counts = np.random.default_rng(0), [3, 0, 1, 5]
    logits = [(4 * draw.normal(size=(rows, classes)) - 90).astype(np.float32) for rows in counts]
    said = iter([([i], torch.tensor(logits[i])) for i in (3, 1, 0, 2)])
    settings = Offline(k=k, dtype=dtype)
    kept = offline.keep(settings, tmp_path / "a.npy", counts=counts, classes=classes, said=said)
    found = kept.logits(kept.of([2, 0, 1, 3])).double().numpy()
    rows = np.concatenate([logits[i] for i in (2, 0, 1, 3)])
    wanted = truncated(rows, k) if k < classes else rows
    # half precision has 11 bits, of the distance from the largest
    error = 2**-11 * (rows.max(-1, keepdims=True) - wanted) if dtype == "float16" else 0
    assert (abs(found - wanted) <= error + 3e-5).all()
    bytes_each = min(k, classes) * (
        (2 if dtype == "float16" else 4) + (1 if classes < 256 else 2 if classes < 65536 else 4)
    )
    assert kept.records.nbytes == 9 * (8 + bytes_each)


def test_it_teaches_as_the_running_teacher_does(place, ran, tmp_path, capsys):
    train_only(place, tmp_path / "online", **SAYS)
    online = ran.copy()
    ran.clear()
    train_only(place, tmp_path / "offline", offline=WHOLE, **SAYS)
    np.testing.assert_allclose(losses(tmp_path / "online"), losses(tmp_path / "offline"), rtol=1e-5, atol=1e-6)
    assert drift(tmp_path / "online", tmp_path / "offline") < 1e-4
    rows = len(read_split(place / "prepare/data", "train"))
    # two epochs become one; for a language model both also say how far they are apart on the validation split
    assert online["examples"] - ran["examples"] == rows
    if place.name.startswith("reviews"):
        assert ran["examples"] == rows
    (file,) = stored(tmp_path / "offline")
    size = np.load(file, mmap_mode="r").nbytes
    assert f"logits of each in float32: {size:,} bytes" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["sums"], indirect=True)
def test_with_fewer_logits_it_teaches_as_a_teacher_that_says_no_more(place, tmp_path, monkeypatch):
    settings = SAYS | {"epochs": 1, "objectives": TERMS | {"tvd": {"temperature": 1.0}, "ranking": {"k": 5}, "akl": {}}}
    train_only(place, tmp_path / "offline", offline={"k": 20, "dtype": "float32"}, **settings)
    train_only(place, tmp_path / "online", **settings)

    def truncate(module: torch.nn.Module, args: tuple, output) -> object:
        shape = output.logits.shape
        rows = truncated(output.logits.reshape(-1, shape[-1]).numpy(), 20)
        output.logits = torch.tensor(rows, dtype=torch.float32).reshape(shape)
        return output

    watched(monkeypatch, place, lambda teacher: teacher.register_forward_hook(truncate))
    train_only(place, tmp_path / "truncated", **settings)
    found, wanted, other = (losses(tmp_path / name) for name in ("offline", "truncated", "online"))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert drift(tmp_path / "offline", tmp_path / "truncated") < 1e-4
    assert abs(found - other).max() > 1e-2


@pytest.mark.parametrize("place", ["reviews"], indirect=True)
def test_made_sentences_are_taught_too(place, ran, tmp_path):
    for name, settings in {"online": {}, "offline": {"offline": WHOLE}}.items():
        train_only(place, tmp_path / name, augmented=True, **settings, **SAYS | {"epochs": 1})
    np.testing.assert_allclose(losses(tmp_path / "online"), losses(tmp_path / "offline"), rtol=1e-5, atol=1e-6)
    splits = [read_split(place / "prepare/data", name) for name in ("train", "augmented")]
    records = np.load(stored(tmp_path / "offline")[0])
    assert len(records) == sum(map(len, splits)) > len(splits[0])


def test_accumulated_batches_give_the_same_step(place, tmp_path):
    settings = SAYS | {"offline": {"k": 30}, "epochs": 1}
    train_only(place, tmp_path / "whole", **settings | {"batch_size": 8})
    train_only(place, tmp_path / "split", **settings | {"batch_size": 2, "gradient_accumulation": 4})
    assert drift(tmp_path / "whole", tmp_path / "split") < 1e-4


@pytest.mark.parametrize("place", ["sums"], indirect=True)
def test_two_processes_are_one_with_twice_the_batch(place, tmp_path, capfd):
    """One writes, both read; 24 of the 30 examples, so that all have whole batches."""
    settings = SAYS | {"offline": {"k": 30}, "epochs": 0.75}
    train_only(place, tmp_path / "one", **settings | {"batch_size": 8})
    (tmp_path / "two").mkdir()
    capfd.readouterr()
    in_two_processes(lambda: train_only(place, tmp_path / "two", **settings | {"batch_size": 4}))
    assert capfd.readouterr().out.count("offline teacher: ") == 1
    assert drift(tmp_path / "one", tmp_path / "two") < 1e-4


def alone(rank: int, folder: Path, found: multiprocessing.Queue) -> None:
    """One of two processes that nobody watches over; the teacher of the first says too much for the disk."""

    def said():
        yield [0], torch.zeros(1, 6)
        raise OSError("No space left on device")

    os.environ["RANK"] = str(rank)
    given = {"init_method": f"file://{folder / 'store'}", "rank": rank, "world_size": 2}
    torch.distributed.init_process_group("gloo", **given)
    try:
        offline.keep(Offline(k=2), folder / "a.npy", counts=[1, 1], classes=6, said=said())
    except Exception as error:
        found.put((rank, type(error), str(error)))


def test_where_the_first_process_fails_none_waits_for_ever(tmp_path):
    (tmp_path / "a.npy.failed").write_text("of an earlier run")
    context = multiprocessing.get_context("fork")  # torch is there already
    found = context.Queue()
    processes = [context.Process(target=alone, args=(rank, tmp_path, found)) for rank in (0, 1)]
    for process in processes:
        process.start()
    try:
        told = {rank: (kind, text) for rank, kind, text in (found.get(timeout=120) for _ in processes)}
    finally:
        for process in processes:
            process.kill()
            process.join()
    reason = "No space left on device"
    assert told == {0: (OSError, reason), 1: (BadInput, f"distill.offline failed in the first process: {reason}")}


@pytest.mark.parametrize("place", ["reviews"], indirect=True)
def test_a_run_that_begins_again_takes_what_is_there(place, ran, tmp_path, monkeypatch):
    """Also with other settings of the training; another k or data is computed anew, and the old one goes."""
    settings = SAYS | {"offline": {"k": 2}}
    real = offline._recorded
    monkeypatch.setattr(offline, "_recorded", lambda *given: 1 / 0 if ran["forwards"] > 3 else real(*given))
    with pytest.raises(ZeroDivisionError):
        train_only(place, tmp_path / "a", **settings)
    assert [path.suffix for path in stored(tmp_path / "a")] == [".partial"], "killed while it was written"
    monkeypatch.setattr(offline, "_recorded", real)
    ran.clear()
    train_only(place, tmp_path / "a", **settings)
    first = stored(tmp_path / "a")
    assert len(first) == 1 and ran["examples"] == 160
    train_only(place, tmp_path / "a", **settings, learning_rate=2e-3)
    assert stored(tmp_path / "a") == first and ran["examples"] == 160
    train_only(place, tmp_path / "a", **settings | {"offline": {"k": 1}})
    assert len(stored(tmp_path / "a")) == 1 and stored(tmp_path / "a") != first and ran["examples"] == 320


@pytest.mark.parametrize("place", ["reviews"], indirect=True)
def test_a_full_disk_and_objectives_without_a_teacher_compute_nothing(place, ran, tmp_path, monkeypatch):
    alone = {"hierarchy": "layers", "objectives": dict.fromkeys(TERMS) | {"hard": {}}}
    train_only(place, tmp_path / "hard", offline={}, **alone)
    assert not stored(tmp_path / "hard") and not ran
    usage = namedtuple("Usage", "total used free")(0, 0, 100)
    monkeypatch.setattr(offline.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(BadInput, match=r"offline needs 2,240 bytes in .* has 100; set distill\.offline\.k below 2"):
        train_only(place, tmp_path / "full", offline={}, **SAYS)
    assert not stored(tmp_path / "full") and not ran


def test_what_it_cannot_teach_is_refused_by_name():
    with pytest.raises(ValueError, match=r"inner states, which attention_kl, hidden, matrices compare; set those"):
        Distill(offline=Offline())
    Distill(offline=Offline(k=10), objectives=TERMS | {"ranking": {"k": 10}, "hidden": {"weight": 0.0}})
    with pytest.raises(ValueError, match=r"offline\.k 4 keeps fewer classes than the 10 .* objectives\.ranking comp"):
        Distill(offline=Offline(k=4), objectives=TERMS | {"ranking": {}})
    with pytest.raises(ValueError, match=r"the 5 whose order objectives\.kl compares; set it to 5 or more"):
        Distill(offline=Offline(k=4), objectives=TERMS | {"kl": {"overlap": 5}})


def test_recipes_that_look_inside_the_teacher_run_it():
    recipes = {
        "logits": {"distill": {"objectives": {"kl": {}}}},
        "states": {"extends": "logits", "distill": {"objectives": {"kl": {}, "hidden": {}}}},
        "online": {"distill": {"offline": None}},
    }
    main = {"offline": {"k": 9}, "objectives": TERMS}
    params = Params.model_validate({"distill": main, "recipes": recipes})
    assert {name: params.recipe(name)[1].offline for name in recipes} == {
        "logits": Offline(k=9),
        "states": None,
        "online": None,
    }
    recipes["states"]["distill"]["offline"] = {}
    with pytest.raises(ValueError, match=r"recipes\.states changes what cannot be so: offline keeps what the teacher"):
        Params.model_validate({"distill": main, "recipes": recipes})
