"""Timing a baseline against its teacher, in work of the graphs in place of seconds."""

import json
from pathlib import Path

import pytest

from stages.errors import BadInput
from stages.models.loading import load_checkpoint
from stages.settings import Benchmark, Compare, Export, TimeBaselines
from stages.time_baselines import TimingSettings, time_baseline
from tests.makers.clocks import count_work
from tests.makers.runs import make_work


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    count_work(monkeypatch)


def time_model(reviews: Path, output: Path, baseline: Path, *, enabled: bool = True, **cell: int) -> dict:
    settings = TimingSettings(
        enabled=TimeBaselines(enabled=enabled), timing=Benchmark(seconds=1), cell=Compare(**cell), checks=Export()
    )
    return time_baseline(
        settings, make_work(output), data=reviews / "data", teacher=reviews / "exported", baseline=baseline
    )


def test_a_baseline_that_is_the_teacher_is_as_fast(exported_reviews: Path, tmp_path: Path) -> None:
    metrics = time_model(exported_reviews, tmp_path / "out", exported_reviews / "model", batch_size=4)
    assert metrics == json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["speedup"] == pytest.approx(1) and (metrics["length"], metrics["batch_size"]) == ("real", 4)
    assert metrics["p50_ms"] == metrics["teacher_p50_ms"] > 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["metrics.json"], "the graph is not kept"


def test_a_shallower_baseline_is_faster(exported_reviews: Path, tmp_path: Path) -> None:
    """One layer of two has fewer nodes; by how many depends on the head, but not on which side."""
    half = load_checkpoint(exported_reviews / "model")
    half.bert.encoder.layer = half.bert.encoder.layer[:1]
    half.config.num_hidden_layers = 1
    half.save_pretrained(tmp_path / "half")
    metrics = time_model(exported_reviews, tmp_path / "out", tmp_path / "half", length=24, batch_size=8)
    assert metrics["speedup"] == pytest.approx(metrics["teacher_p50_ms"] / metrics["p50_ms"])
    assert metrics["speedup"] > 1.15


def test_nothing_is_timed_where_it_is_off(exported_reviews: Path, tmp_path: Path) -> None:
    assert time_model(exported_reviews, tmp_path / "out", tmp_path / "no such model", enabled=False) == {}
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == {}


def test_a_length_that_the_model_cannot_read_is_refused(exported_reviews: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"compare\.length is 1000, but this model reads 2 to \d+ tokens"):
        time_model(exported_reviews, tmp_path / "out", exported_reviews / "model", length=1000)
