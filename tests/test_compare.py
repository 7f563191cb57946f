"""The comparison: every figure of the table is one that a stage wrote, in the right row."""

import json
from pathlib import Path

import pandas as pd
import pytest

from stages.compare import Sources, compare
from stages.settings import BadInput, Compare
from stages.tasks import GLUE
from stages.tracking import Run

TASKS = {name: GLUE[name] for name in ("sst2", "cola")}


def _scored(score: float, size: int, **more: float) -> dict:
    """What evaluate writes for one model."""
    figures = {
        "parameters": 2 * size,
        "layer_parameters": size,
        "macs_per_token": 3 * size,
        "bytes": 8 * size,
    }
    return {"score": score, "interval": [score - 1, score + 2], "metrics": {}} | figures | more


def _write(folder: Path, content: dict) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(content))


def _cell(model: str, variant: str, length: str | int, batch_size: int, p50: float) -> dict:
    return {"model": model, "variant": variant, "length": length, "batch_size": batch_size, "p50_ms": p50}


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """Two tasks evaluated, two rivals scored on one of them, one of the tasks benchmarked."""
    found = Sources(evaluate=tmp_path / "e", baseline=tmp_path / "b", benchmark=tmp_path / "m")
    for task, teacher, student in (("sst2", 90.0, 89.1), ("cola", 50.0, 48.0)):
        kept = 100 * student / teacher
        row = _scored(student, 5_000_000, retention=kept, agreement=97.0)
        _write(found.evaluate / task, {"teacher": _scored(teacher, 10_000_000), "student": row})
    for recipe, score in (("svd", 60.0), ("whitened", 85.0)):
        row = _scored(score, 5_000_000, retention=100 * score / 90)
        _write(found.baseline / "sst2" / recipe, {"student": row, "seconds": 1.0})
    cells = [
        _cell("teacher", "fp32", "real", 1, 10.0),
        _cell("student", "fp32", "real", 1, 4.0),
        _cell("student", "int8", "real", 1, 2.5),
        _cell("teacher", "fp32", 128, 8, 100.0),
        _cell("student", "int8", 128, 8, 20.0),
    ]
    _write(found.benchmark / "sst2", {"cells": cells})
    return found


def _compare(sources: Sources, output: Path, settings: Compare | None = None) -> pd.DataFrame:
    output.mkdir()
    recipes = ["svd", "whitened"]
    return compare(settings or Compare(), tasks=TASKS, recipes=recipes, sources=sources, output=output, run=Run())


def test_every_model_is_in_the_table_with_its_own_figures(sources: Sources, tmp_path: Path) -> None:
    _compare(sources, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "table.csv").set_index(["task", "model"])
    assert list(table.loc["sst2"].index) == ["teacher", "student", "svd", "whitened"]
    assert list(table.loc["cola"].index) == ["teacher", "student"]
    student = table.loc[("sst2", "student")]
    assert (student.score, student.low, student.high) == (89.1, 88.1, 91.1)
    assert student.retention == pytest.approx(99.0)
    assert (student.layer_parameters, student.parameters, student.bytes) == (5e6, 1e7, 4e7)
    assert (student.p50_ms, student.speedup) == (4.0, 2.5)
    assert table.loc[("sst2", "svd")].isna().speedup and table.loc[("cola", "teacher")].isna().p50_ms


def test_the_settings_choose_the_latency(sources: Sources, tmp_path: Path) -> None:
    table = _compare(sources, tmp_path / "out", Compare(variant="int8", length=128, batch_size=8))
    assert table.set_index(["task", "model"]).loc[("sst2", "student")].speedup == 5.0


def test_a_cell_that_was_not_measured_is_said(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = _compare(sources, tmp_path / "out", Compare(batch_size=32))
    assert table.speedup.isna().all()
    assert "sst2 has no latency for fp32, length real, batch 32" in capsys.readouterr().out


def test_the_summary_names_the_best_rival(sources: Sources, tmp_path: Path) -> None:
    _compare(sources, tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["sst2"] == {
        "retention": pytest.approx(99.0),
        "best_baseline": "whitened",
        "margin": pytest.approx(4.1),
    }
    assert metrics["cola"] == {"retention": pytest.approx(96.0)}


def test_the_text_and_the_plots_are_for_people(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    _compare(sources, tmp_path / "out")
    text = (tmp_path / "out" / "table.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.split("### cola")[0].splitlines() if " to " in line]
    assert rows == ["teacher", "student", "whitened", "svd"], "teacher, then best first"
    assert "99.0 %" in text and "2.50x" in text and "nan" not in text.lower()
    said = capsys.readouterr().out
    assert text in said and f"{sources.benchmark / 'cola' / 'metrics.json'} does not exist" in said
    for name in ("score_size.png", "score_latency.png"):
        assert (tmp_path / "out" / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    empty = Sources(evaluate=tmp_path / "e", baseline=tmp_path / "b", benchmark=tmp_path / "m")
    with pytest.raises(BadInput, match="holds no scores of sst2, cola"):
        _compare(empty, tmp_path / "out")
