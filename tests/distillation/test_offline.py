"""Offline distillation: cached logits teach as the teacher itself does, or as one whose other logits are equal."""

import logging
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stages.distillation import logit_cache
from stages.errors import BadInput
from stages.settings import Finetune
from stages.tasks.splits import read_split
from tests.makers.chains import make_chain, measure_student_drift, run_distill, watch_loading
from tests.makers.logits import truncate_logits
from tests.makers.processes import run_in_two_processes
from tests.makers.texts import REVIEWS, SUMS

WHOLE = {"k": 1000, "dtype": "float32"}
"""More than the classes of any task here."""
OBJECTIVES = {"kl": {}, "jsd": {}, "hard": {}, "logit_mse": {}}
"""Of logits alone."""
LOGITS = {"hierarchy": "joint", "epochs": 2, "objectives": OBJECTIVES}


@pytest.fixture(scope="module", params=["reviews", "sums"])
def chain(request, tmp_path_factory, tiny_model, tiny_data, tiny_decoder, tiny_text) -> Path:
    """A prepared task, its teacher, its student; `reviews` with further sentences."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = Finetune(epochs=2, batch_size=16, learning_rate=3e-3, warmup_ratio=0.0)
    if request.param == "sums":
        return make_chain(folder, tiny_decoder, tiny_text, "sums", SUMS, settings)
    augment = {"copies": 1, "source": "neighbors"}
    return make_chain(folder, tiny_model, tiny_data, "reviews", REVIEWS, settings, augment=augment)


@pytest.fixture
def teacher_runs(chain, monkeypatch) -> Counter[str]:
    """How often the teacher ran (`forwards`), and with how many examples in all (`examples`)."""
    counts: Counter[str] = Counter()

    def count(module: torch.nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        counts["forwards"] += 1
        counts["examples"] += len(kwargs["input_ids"])

    hook_teacher(monkeypatch, chain, count, with_kwargs=True)
    return counts


def hook_teacher(monkeypatch: pytest.MonkeyPatch, chain: Path, hook, **options: bool) -> None:
    """Registers a forward hook on the teacher wherever a stage loads it."""

    def register(folder: Path, model: torch.nn.Module) -> None:
        if folder == chain / "finetune/model":
            model.register_forward_hook(hook, **options)

    watch_loading(monkeypatch, register)


def read_losses(output: Path) -> np.ndarray:
    """Every term in every step."""
    table = pd.read_csv(output / "history.csv")
    return table[[name for name in table if name.startswith("loss/")]].dropna().to_numpy()


def list_caches(output: Path) -> list[Path]:
    return sorted((output / "state").glob("teacher-*"))


def test_it_teaches_as_the_running_teacher_does(chain, teacher_runs, tmp_path, caplog):
    run_distill(chain, tmp_path / "online", **LOGITS)
    online = teacher_runs.copy()
    teacher_runs.clear()
    with caplog.at_level(logging.INFO, logger="stages"):
        run_distill(chain, tmp_path / "offline", offline=WHOLE, **LOGITS)
    losses = read_losses(tmp_path / "online"), read_losses(tmp_path / "offline")
    np.testing.assert_allclose(*losses, rtol=1e-5, atol=1e-6)
    assert measure_student_drift(tmp_path / "online", tmp_path / "offline") < 1e-4
    examples = len(read_split(chain / "prepare/data", "train"))
    # two epochs become one; of a language model both also measure the distance on the validation split
    assert online["examples"] - teacher_runs["examples"] == examples
    if chain.name.startswith("reviews"):
        assert teacher_runs["examples"] == examples
    (file,) = list_caches(tmp_path / "offline")
    records = np.load(file, mmap_mode="r")
    assert f"logits of each of {len(records):,} rows in float32: {records.nbytes:,} bytes" in caplog.text


@pytest.mark.parametrize("chain", ["sums"], indirect=True)
def test_with_fewer_logits_it_teaches_as_a_teacher_whose_other_logits_are_equal(chain, tmp_path, monkeypatch):
    terms = OBJECTIVES | {"tvd": {"temperature": 1.0}, "ranking": {"k": 5}, "akl": {}}
    settings = LOGITS | {"epochs": 1, "objectives": terms}
    run_distill(chain, tmp_path / "offline", offline={"k": 20, "dtype": "float32"}, **settings)
    run_distill(chain, tmp_path / "online", **settings)

    def truncate(module: torch.nn.Module, args: tuple, output) -> object:
        shape = output.logits.shape
        rows = truncate_logits(output.logits.reshape(-1, shape[-1]).numpy(), 20)
        output.logits = torch.tensor(rows, dtype=torch.float32).reshape(shape)
        return output

    hook_teacher(monkeypatch, chain, truncate)
    run_distill(chain, tmp_path / "truncated", **settings)
    offline, truncated, online = (read_losses(tmp_path / name) for name in ("offline", "truncated", "online"))
    np.testing.assert_allclose(offline, truncated, rtol=1e-5, atol=1e-5)
    assert measure_student_drift(tmp_path / "offline", tmp_path / "truncated") < 1e-4
    assert abs(offline - online).max() > 1e-2


@pytest.mark.parametrize("chain", ["reviews"], indirect=True)
def test_augmented_sentences_are_cached_too(chain, tmp_path):
    for name, settings in {"online": {}, "offline": {"offline": WHOLE}}.items():
        run_distill(chain, tmp_path / name, augmented=True, **settings, **LOGITS | {"epochs": 1})
    losses = read_losses(tmp_path / "online"), read_losses(tmp_path / "offline")
    np.testing.assert_allclose(*losses, rtol=1e-5, atol=1e-6)
    splits = [read_split(chain / "prepare/data", name) for name in ("train", "augmented")]
    records = np.load(list_caches(tmp_path / "offline")[0])
    assert len(records) == sum(map(len, splits)) > len(splits[0])


def test_accumulated_batches_give_the_same_step(chain, tmp_path):
    settings = LOGITS | {"offline": {"k": 30}, "epochs": 1}
    run_distill(chain, tmp_path / "whole", **settings | {"batch_size": 8})
    run_distill(chain, tmp_path / "split", **settings | {"batch_size": 2, "gradient_accumulation": 4})
    assert measure_student_drift(tmp_path / "whole", tmp_path / "split") < 1e-4


@pytest.mark.parametrize("chain", ["sums"], indirect=True)
def test_two_processes_equal_a_single_one_with_twice_the_batch(chain, tmp_path):
    """One writes, both read; 24 of the 30 examples, so that all have whole batches."""
    settings = LOGITS | {"offline": {"k": 30}, "epochs": 0.75}
    run_distill(chain, tmp_path / "single", **settings | {"batch_size": 8})

    def train() -> None:
        logging.basicConfig(filename=tmp_path / "log.txt", level=logging.INFO, force=True)
        run_distill(chain, tmp_path / "double", **settings | {"batch_size": 4})

    run_in_two_processes(train)
    assert (tmp_path / "log.txt").read_text().count("distill: caching ") == 1
    assert measure_student_drift(tmp_path / "single", tmp_path / "double") < 1e-4


@pytest.mark.parametrize("chain", ["reviews"], indirect=True)
def test_a_run_that_begins_again_reads_what_was_cached(chain, teacher_runs, tmp_path, monkeypatch):
    """Also with other settings of the training; another k or data is computed anew, and the old cache is removed."""
    settings, output = LOGITS | {"offline": {"k": 2}}, tmp_path / "a"
    original = logit_cache._to_records
    monkeypatch.setattr(
        logit_cache, "_to_records", lambda *rows: 1 / 0 if teacher_runs["forwards"] > 3 else original(*rows)
    )
    with pytest.raises(ZeroDivisionError):
        run_distill(chain, output, **settings)
    assert [path.suffix for path in list_caches(output)] == [".partial"], "killed while it was written"
    monkeypatch.setattr(logit_cache, "_to_records", original)
    teacher_runs.clear()
    run_distill(chain, output, **settings)
    first = list_caches(output)
    assert len(first) == 1 and teacher_runs["examples"] == 160
    run_distill(chain, output, **settings | {"learning_rate": 2e-3})
    assert list_caches(output) == first and teacher_runs["examples"] == 160
    run_distill(chain, output, **settings | {"offline": {"k": 1}})
    assert len(list_caches(output)) == 1 and list_caches(output) != first and teacher_runs["examples"] == 320


@pytest.mark.parametrize("chain", ["reviews"], indirect=True)
def test_objectives_without_a_teacher_compute_nothing(chain, teacher_runs, tmp_path):
    run_distill(chain, tmp_path, offline={}, hierarchy="joint", objectives={"hard": {}})
    assert not list_caches(tmp_path) and not teacher_runs


@pytest.mark.parametrize("chain", ["reviews"], indirect=True)
def test_a_full_disk_is_refused_before_anything_is_computed(chain, teacher_runs, tmp_path, monkeypatch):
    usage = namedtuple("Usage", "total used free")(0, 0, 100)
    monkeypatch.setattr(logit_cache.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(BadInput, match=r"offline needs 2,240 bytes in .* has 100; set distill\.offline\.k below 2"):
        run_distill(chain, tmp_path, offline={}, **LOGITS)
    assert not list_caches(tmp_path) and not teacher_runs
