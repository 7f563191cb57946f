"""`python -m benchmarks.agnostic`, `budgets` and `others`: models of tiny settings, made and scored."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import agnostic, budgets, others
from benchmarks.rows import append_row, read_rows
from stages.settings import Params, Prune, read_params
from tests.makers.texts import make_reviews

ROOT = Path(__file__).resolve().parents[2]


def read_tiny_params(folder: Path, model: Path, **changes: Any) -> Params:
    """The shipped settings, for a tiny model and few steps."""
    settings = {
        "base": {"model": str(model)},
        "prepare": {"max_length": 32},
        "finetune": {"epochs": 0.2, "precision": "float32"},
        "evaluate": {"bootstrap": 100},
    } | changes
    (folder / "tiny.yaml").write_text(json.dumps(settings))
    return read_params(ROOT / "params.yaml", folder / "tiny.yaml")


def test_pruned_models_are_made_and_fine_tuned(tmp_path: Path, tiny_model: Path, tiny_data: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{text}\n" for text, _ in make_reviews(300)))
    params = read_tiny_params(
        tmp_path,
        tiny_model,
        data={"custom": {"reviews": {"text": ["text"], "labels": ["bad", "good"]}}},
        pack={"block_length": 16},
        pretrain={"base": {"model": str(tiny_model)}, "head": {"steps": 1}},
        prune={"targets": [0.5], "validation_blocks": 8, "precision": "float32"},
    )
    corpus, work = ["--corpus", str(tmp_path / "text.txt")], ["--work", str(tmp_path / "work")]
    options = agnostic.parse_options([*corpus, *work, "--source", str(tiny_data), "--steps", "2"])
    agnostic.make_teacher(params, options)
    agnostic.prepare_task(params, options, "reviews")
    rows = agnostic.measure_students(params, options, "oneshot")
    assert [(row["method"], row["model"], row["measure"]) for row in rows] == [
        *(("oneshot", "2x16", measure) for measure in ("perplexity", "accuracy", "discrepancy")),
        *(("whole", "teacher", measure) for measure in ("perplexity", "accuracy")),
    ]
    (tuned,) = agnostic.finetune_model(params, options, "reviews", rows[0])
    assert float(tuned["low"]) <= float(tuned["value"]) <= float(tuned["high"])
    assert int(tuned["layer_parameters"]) == int(rows[0]["layer_parameters"])
    file = tmp_path / "rows.csv"
    agnostic.add_rows(file, [rows, rows, [tuned]])
    assert len(file.read_text().splitlines()) == 1 + len(rows) + 1
    first, second = agnostic.format_table(file).splitlines()[2:]
    assert "whole" in first and "oneshot" in second and tuned["value"] in second
    shutil.copy(options.work / "oneshot/history.csv", tmp_path)
    for family in agnostic.FAMILIES:
        (options.work / family).mkdir(exist_ok=True)
        shutil.copy(tmp_path / "history.csv", options.work / family)
    agnostic.plot_discrepancy(options.work, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


@pytest.mark.parametrize("method", [*agnostic.FAMILIES, *agnostic.BASELINES])
def test_methods_change_the_block_prune(method: str) -> None:
    params = read_params(ROOT / "params.yaml", ROOT / "benchmarks/agnostic.yaml")
    changes = agnostic.FAMILIES[method] if method in agnostic.FAMILIES else agnostic.BASELINES[method][1]
    settings = Prune.model_validate(params.prune.model_dump(exclude_unset=True) | changes)
    assert (settings.factorize is None) == (method in agnostic.FAMILIES)
    shipped = params.prune.objectives.active_terms()
    assert list(settings.objectives.active_terms()) == list(changes.get("objectives", shipped))


def test_students_are_scored_on_unseen_examples(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = read_tiny_params(
        tmp_path,
        tiny_model,
        distill={"epochs": 0.2, "precision": "float32"},
        factorize={"calibration": {"examples": 16}, "multiple_of": 1},
    )
    place = ["--tasks", "sentiment", "--seeds", "1", "--budgets", "0.5", "--work", str(tmp_path / "work")]
    options = budgets.parse_options([*place, "--examples", "32", "--rows", str(tmp_path / "rows.csv")])
    params = budgets.change_params(params, options)
    teacher = budgets.measure_teacher(params, "sentiment", 1, options)
    students = [budgets.measure_student(params, "sentiment", 1, options, 0.5, name) for name in ("makd", "svd")]
    assert [(row["budget"], row["recipe"]) for row in (teacher, *students)] == [
        ("1", "teacher"),
        ("0.5", "makd"),
        ("0.5", "svd"),
    ]
    for row in (teacher, *students):
        append_row(options.rows, row, budgets.COLUMNS)
        assert row["low"] <= row["score"] <= row["high"]
    assert all(0.48 < row["layer_parameters"] / teacher["layer_parameters"] <= 0.5 for row in students)
    budgets.main([*place, "--rows", str(options.rows), "--table", "--params", str(tmp_path / "tiny.yaml")])
    assert "| 0.5      | makd" in capsys.readouterr().out

    (tmp_path / "work/sentiment/1/kd-0.5/untrained").mkdir(parents=True)
    (tmp_path / "work/sentiment/1/kd-0.5/model").mkdir()
    others.main([*place, "--source", "bundled", "--count", "20", "--rows", str(tmp_path / "others.csv")])
    table = capsys.readouterr().out.splitlines()
    recipes = [line.split("|")[4].strip() for line in table[2:]]
    assert recipes[0] == "teacher" and sorted(recipes[1:]) == ["makd", "svd"]
    assert [row["recipe"] for row in read_rows(tmp_path / "others.csv")] == recipes
