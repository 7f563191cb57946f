"""The verb `compare`: what it reports of its table, to people, to DVC and to MLflow."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stages.settings import Compare, Limit
from stages.tracking import Run
from tests.makers.comparisons import STUDENTS, run_compare, write_outputs


class RecordingRun(Run):
    """A tracked run that keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[str, float] = {}
        self.children: dict[str, tuple[Mapping[str, Any], Mapping[str, float]]] = {}
        self.descriptions: list[str] = []

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.metrics |= values

    def log_child_run(self, name: str, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        self.children[name] = params, metrics

    def describe_pipeline(self, text: str) -> None:
        self.descriptions.append(text)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return write_outputs(tmp_path / "outputs")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RecordingRun]:
    """The folder that compare wrote, and its tracked run."""
    run = RecordingRun()
    return run_compare(write_outputs(tmp_path_factory.mktemp("compare") / "outputs"), run=run), run


def test_the_summary_names_the_best_baseline_and_the_pareto_front(compared: tuple[Path, RecordingRun]) -> None:
    summary = json.loads((compared[0] / "summary.json").read_text())
    sst2 = {"retention": pytest.approx(100 * 89 / 90), "best_baseline": "kd", "margin": 2.5, "pareto": ["student"]}
    assert summary["sst2"] == sst2 and summary["cola"].keys() == {"retention", "pareto"}


def test_the_metrics_are_the_few_figures_that_experiments_are_compared_by(compared: tuple[Path, RecordingRun]) -> None:
    metrics = json.loads((compared[0] / "metrics.json").read_text())
    assert metrics["sst2"] == {
        "score": 89.0,
        "retention": 98.8889,
        "teacher_score": 90.0,
        "best_baseline_score": 86.5,
        "layer_parameters": 5_000_000,
        "megabytes": 40.0,
        "latency_ms": 4.0,
        "speedup": 2.6,
    }
    assert metrics["cola"].keys() == {"score", "retention", "teacher_score", "layer_parameters", "megabytes"}, (
        "what was not measured is left out"
    )


def test_without_a_student_the_metrics_are_the_others(outputs: Path) -> None:
    rows = json.loads((outputs / "evaluate/sst2/metrics.json").read_text())
    (outputs / "evaluate/sst2/metrics.json").write_text(json.dumps({"teacher": rows["teacher"]}))
    folder = run_compare(outputs, students={"svd": STUDENTS["svd"]})
    assert json.loads((folder / "metrics.json").read_text())["sst2"] == {
        "teacher_score": 90.0, "best_baseline_score": 59.0
    }  # fmt: skip


def test_text_and_plots_are_for_people(outputs: Path) -> None:
    folder = run_compare(outputs, Compare(limit=Limit(retention=0.9, latency_ms=4.5)))
    text = (folder / "table.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.split("### cola")[0].splitlines() if " to " in line]
    assert rows == ["teacher", "student", "kd", "svd"], "teacher, then best first"
    assert "98.9 %" in text and "2.60x" in text and "< 0.01" in text and "nan" not in text.lower()
    assert "Take student: the smallest with latency_ms <= 4.5 and retention >= 0.9" in text
    assert "No student has latency_ms <= 4.5" in text.split("### cola")[1], "not measured there"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["sst2"]["pick"] == "student" and summary["sst2"]["why"] in text
    assert summary["cola"]["pick"] is None
    for name in ("score_size", "score_latency", "score_cost", "bars", "curves"):
        assert (folder / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_every_model_is_a_run_below_this_one(compared: tuple[Path, RecordingRun]) -> None:
    children = compared[1].children
    names = {"sst2": ["teacher", "student", "svd", "kd"], "cola": ["teacher", "student"]}
    assert list(children) == [f"{task}-{model}" for task in names for model in names[task]]
    params, figures = children["sst2-kd"]
    assert (params["recipe"], params["seeds"]) == ("kd", 2) and params["distill"]["learning_rate"] == 1e-4
    assert figures["score"] == 86.5 and figures["speedup"] == 2.0
    params, figures = children["sst2-svd"]
    assert params["factorize"]["decomposition"] == "svd" and params["distill"] is None
    assert "speedup" not in figures, "what was not measured is not a figure"


def test_the_summary_is_on_this_run_and_the_table_describes_the_pipeline(compared: tuple[Path, RecordingRun]) -> None:
    folder, run = compared
    assert run.metrics["sst2/margin"] == 2.5 and set(run.metrics) == {
        "sst2/retention", "sst2/margin", "cola/retention"
    }  # fmt: skip
    assert run.descriptions == [(folder / "table.md").read_text()]
