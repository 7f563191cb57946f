"""Benchmark: every cell is measured, in work of the graphs in place of seconds, so that all figures are known."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stages.benchmark import benchmark
from stages.errors import BadInput
from stages.settings import Benchmark
from stages.tracking import Run
from tests.makers.clocks import count_work
from tests.makers.runs import make_work


class RecordedRun(Run):
    """A tracked run whose metrics and tags can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[str, float] = {}
        self.tags: dict[str, dict[str, object]] = {}

    def log_metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.metrics |= values

    def tag_challenger(self, name: str, tags: dict[str, object]) -> None:
        self.tags[name] = tags


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    count_work(monkeypatch)


def benchmark_reviews(reviews: Path, output: Path, student: Path, **settings: Any) -> tuple[dict, RecordedRun]:
    settings = {"batch_sizes": [1, 4], "lengths": ["real", 16], "seconds": 1} | settings
    run = RecordedRun()
    metrics = benchmark(
        Benchmark(**settings),
        make_work(output, run=run),
        name="reviews",
        data=reviews / "data",
        teacher=reviews / "exported",
        student=student,
    )
    return metrics, run


def test_every_cell_is_measured(exported_reviews: Path, tmp_path: Path) -> None:
    """Teacher and student are the same graph here: the ratio of fp32 is 1."""
    metrics, run = benchmark_reviews(exported_reviews, tmp_path / "out", exported_reviews / "exported")
    assert metrics == json.loads((tmp_path / "out/metrics.json").read_text())
    assert (tmp_path / "out/latency.png").stat().st_size > 10_000
    assert len(metrics["cells"]) == 2 * 2 * 3
    for cell in metrics["cells"]:
        assert 0 < cell["p50_ms"] <= cell["p95_ms"] <= cell["p99_ms"]
    same = [metrics["ratio"][f"fp32/{length}/{size}"] for length in ("real", 16) for size in (1, 4)]
    assert same == pytest.approx([1] * 4)
    assert metrics["bytes"]["student/fp32"] == (exported_reviews / "exported/onnx/model.onnx").stat().st_size
    assert all(size > 0 for size in metrics["resident_bytes"].values())
    assert run.metrics["ratio/int8/16/4"] == metrics["ratio"]["int8/16/4"]
    assert run.tags["makd-reviews"]["latency_ms"] > 0


def test_the_ratio_is_the_teachers_time_over_the_students(exported_reviews: Path, tmp_path: Path) -> None:
    """The int8 graph has more nodes, so by their count it is slower; a batch of 4 is 4 times the work of one."""
    metrics, _ = benchmark_reviews(exported_reviews, tmp_path / "out", exported_reviews / "exported", lengths=[16])
    cells = {(c["model"], c["variant"], c["batch_size"]): c for c in metrics["cells"]}
    teacher, int8 = (cells[model]["p50_ms"] for model in (("teacher", "fp32", 1), ("student", "int8", 1)))
    assert metrics["ratio"]["int8/16/1"] == pytest.approx(teacher / int8) and teacher < int8
    assert cells["teacher", "fp32", 4]["p50_ms"] == pytest.approx(4 * teacher)
    assert cells["teacher", "fp32", 4]["per_second"] == pytest.approx(1000 / teacher)


def test_a_refused_variant_is_left_out(exported_reviews: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported_reviews / "exported", tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    row = manifest["variants"]["int8"]
    (copy / row.pop("file")).unlink()
    row["refused"] = "accuracy 50.00 against 80.00 of fp32"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    metrics, _ = benchmark_reviews(exported_reviews, tmp_path / "out", copy, batch_sizes=[1], lengths=["real"])
    assert list(metrics["ratio"]) == ["fp32/real/1"]


def test_lengths_that_the_model_cannot_read_are_refused(exported_reviews: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"benchmark\.lengths has 1000, but this model reads 2 to \d+ tokens"):
        benchmark_reviews(exported_reviews, tmp_path / "out", exported_reviews / "exported", lengths=[1000])


def test_prefill_and_decode_are_timed(exported_llama: Path, token_data: Path, tmp_path: Path) -> None:
    """Counted in runs of the graph: a prompt of 16 tokens is one, so a token a sixteenth; each generated token is one.

    The same graph against itself: every ratio is 1.
    """
    graph = exported_llama / "onnx"
    inputs = {"name": "tiny", "data": token_data, "teacher": graph, "student": graph}
    settings = Benchmark(batch_sizes=[1, 2], lengths=["real", 16], variants=["fp32", "int8"], seconds=1)
    metrics = benchmark(settings, make_work(tmp_path), **inputs)
    assert len(metrics["cells"]) == 3 * 2 * 2 * 2 and (tmp_path / "latency.png").stat().st_size > 0
    assert metrics["ratio"] == {
        f"{variant}/{phase}/{length}/{size}": pytest.approx(1)
        for variant in ("fp32", "int8") for phase in ("prefill", "decode") for length in ("real", 16) for size in (1, 2)
    }  # fmt: skip
    cells = {(c["phase"], c["variant"], c["batch_size"]): c for c in metrics["cells"] if c["length"] == 16}
    assert cells["prefill", "fp32", 1]["p50_ms"] == pytest.approx(1000 / 16)
    assert cells["prefill", "fp32", 2]["p50_ms"] == pytest.approx(1000 / 32)
    assert cells["decode", "fp32", 1]["p50_ms"] == cells["decode", "fp32", 2]["p50_ms"] == pytest.approx(1000)
    with pytest.raises(BadInput, match=r"benchmark.lengths has 64, but this model reads 2 to 48 tokens when timed"):
        benchmark(Benchmark(lengths=[64]), make_work(tmp_path), **inputs)
