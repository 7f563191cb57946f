"""The verb `compare`: every figure of the table is one that a stage wrote, in the right row."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.errors import BadInput
from stages.kinds import get_kind
from stages.settings import Compare
from stages.tasks.significance import paired_p_value, resample_scores
from tests.makers.comparisons import (
    LABELS,
    STUDENTS,
    TASKS,
    make_predictions,
    run_compare,
    save_predictions,
    write_metrics,
    write_outputs,
)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return write_outputs(tmp_path / "outputs")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table of all that the stages wrote."""
    return read_table(run_compare(write_outputs(tmp_path_factory.mktemp("compare") / "outputs")))


def read_table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "table.csv").set_index(["task", "model"])


def test_every_model_is_in_the_table_with_its_own_figures(table: pd.DataFrame) -> None:
    assert list(table.loc["sst2"].index) == ["teacher", "student", "svd", "kd"]
    assert list(table.loc["cola"].index) == ["teacher", "student"]
    student, kd = table.loc[("sst2", "student")], table.loc[("sst2", "kd")]
    assert (student.seeds, student.score, student.low, student.high) == (1, 89.0, 87.75, 91.25), "evaluate's interval"
    assert student.retention == pytest.approx(100 * 89 / 90)
    assert (student.layer_parameters, student.parameters, student.bytes) == (5e6, 1e7, 4e7)
    assert (student.p50_ms, student.speedup, student.seconds) == (4.0, 2.6, 90.0)
    assert (kd.seeds, kd.score, kd.seconds) == (2, (87.0 + 86.0) / 2, 15.0), "means over seeds"
    assert kd.low < 86.5 < kd.high and (kd.low, kd.high) != (86.5 - 1.25, 86.5 + 2.25), "seeds drawn, too"
    assert (kd.p50_ms, kd.speedup) == (5.0, 2.0), "the benchmark's teacher over the baseline's own speed-up"
    assert (table.loc[("sst2", "teacher")].p50_ms, table.loc[("sst2", "teacher")].seconds) == (10.0, 60.0)
    assert np.isnan(table.loc[("sst2", "svd")].speedup) and np.isnan(table.loc[("cola", "teacher")].p50_ms)


def test_p_is_against_the_best_student(table: pd.DataFrame) -> None:
    assert np.isnan(table.loc[("sst2", "student")].p), "the best itself"
    assert table.loc[("sst2", "svd")].p == pytest.approx(2 / 501)
    models = {"student": [make_predictions(22, 1)], "kd": [make_predictions(26, 1), make_predictions(28, 2)]}
    scorer = get_kind(TASKS["sst2"]).make_scorer(TASKS["sst2"])
    p = paired_p_value(*resample_scores(scorer, models, 500, 7).values())
    assert 0.1 < table.loc[("sst2", "kd")].p == pytest.approx(p, abs=0.12)


def test_the_settings_choose_the_latency(outputs: Path) -> None:
    table = read_table(run_compare(outputs, Compare(variant="int8", length=128, batch_size=8)))
    assert tuple(table.loc[("sst2", "student")][["p50_ms", "speedup"]]) == (20.0, 5.5)


def test_a_decoder_shows_the_time_of_a_step(outputs: Path) -> None:
    cells = [
        {"model": model, "variant": "fp32", "length": "real", "batch_size": 1, "phase": phase, "p50_ms": milliseconds}
        for model, phase, milliseconds in [
            ("teacher", "prefill", 50.0), ("student", "prefill", 30.0), ("teacher", "decode", 6.0),
            ("student", "decode", 4.0),
        ]
    ]  # fmt: skip
    ratio = {"fp32/prefill/real/1": 1.7, "fp32/decode/real/1": 1.5}
    write_metrics(outputs / "benchmark/sst2", {"cells": cells, "ratio": ratio})
    table = read_table(run_compare(outputs))
    assert tuple(table.loc[("sst2", "student")][["p50_ms", "speedup"]]) == (4.0, 1.5)
    assert table.loc[("sst2", "teacher")].p50_ms == 6.0


def test_a_cell_that_was_not_measured_is_logged(outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = read_table(run_compare(outputs, Compare(batch_size=32)))
    assert np.isnan(table.loc[("sst2", "student")].p50_ms)
    assert table.loc[("sst2", "kd")].p50_ms == 15.0, "its own, as there is no teacher's"
    assert "benchmark has not measured fp32, length real, batch 32 for sst2; set compare to what it has" in caplog.text
    assert "kd was timed on a busy machine (load 4.5 on 4 cores): do not trust its latency" in caplog.text


def test_without_baselines_the_main_chain_is_compared(outputs: Path) -> None:
    table = read_table(run_compare(outputs, students={"student": STUDENTS["student"]}))
    assert list(table.loc["sst2"].index) == ["teacher", "student"]


def test_a_teacher_alone_and_nothing_trained(outputs: Path) -> None:
    """The plots bear it: a student not yet made, baselines that are not trained."""
    rows = json.loads((outputs / "evaluate/sst2/metrics.json").read_text())
    write_metrics(outputs / "evaluate/sst2", {"teacher": rows["teacher"]})
    (outputs / "evaluate/cola/metrics.json").unlink()
    table = read_table(run_compare(outputs, students={"svd": STUDENTS["svd"]}))
    assert list(table.loc["sst2"].index) == ["teacher", "svd"]


def test_a_seed_that_was_not_run_is_left_out(outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="stages")
    assert read_table(run_compare(outputs, seeds=[2, 3])).loc[("sst2", "kd")].score == 86.0
    assert f"{outputs / 'baseline/sst2/kd/3/metrics.json'} does not exist" in caplog.text


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no scores of sst2, cola"):
        run_compare(tmp_path / "none")


def test_scores_on_other_examples_are_refused(outputs: Path) -> None:
    other = make_predictions(20, labels=1 - LABELS)
    save_predictions(outputs / "baseline/sst2/kd/2/predictions.csv", "sst2", other)
    with pytest.raises(BadInput, match=r"kd/2/predictions\.csv and .*teacher\.csv are not of the same examples"):
        run_compare(outputs)
