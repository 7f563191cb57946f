"""The comparison: every figure of the table is one that a stage wrote, in the right row; what to take from it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.compare import compare
from stages.comparison.collect import Sources
from stages.comparison.pick import front, pick
from stages.comparison.plots import spread
from stages.settings import BadInput, Compare, Distill, Factorize, Limit
from stages.tasks import GLUE
from stages.tasks.metrics import scores
from stages.tasks.predictions import write_predictions
from stages.tasks.significance import p_value, resampled
from stages.tracking import Run

TASKS = {name: GLUE[name] for name in ("sst2", "cola")}
STUDENTS = {
    "student": (Factorize(), Distill()),
    "svd": (Factorize(decomposition="svd"), None),
    "kd": (Factorize(), Distill(learning_rate=1e-4)),
}
LABELS = np.tile([0, 1], 100)
HISTORY = "step,epoch,loss,loss/kl\n1,0.5,2.0,1.0\n2,1.0,1.0,0.5\n"


def said(wrong: int, shift: int = 0) -> np.ndarray:
    """Logits (200, 2) with so many wrong answers, one in three places from `shift` on."""
    answers = LABELS.copy()
    rows = (shift + 3 * np.arange(wrong)) % 200
    answers[rows] = 1 - answers[rows]
    return np.eye(2, dtype=np.float32)[answers]


def row(task: str, logits: np.ndarray, size: int) -> dict:
    """What evaluate and baseline write for one model, with an interval that only they could have written."""
    score = scores(TASKS[task], logits, LABELS)[TASKS[task].metrics[0]]
    sizes = {"parameters": 2 * size, "layer_parameters": size, "macs_per_token": 3 * size, "bytes": 8 * size}
    return {"score": score, "interval": [score - 1.25, score + 2.25], "metrics": {}} | sizes


def write(folder: Path, content: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def rival(outputs: Path, name: str, seed: int, logits: np.ndarray, seconds: float, history: str) -> None:
    folder = outputs / "baseline/sst2" / name / str(seed)
    write(folder, {"student": row("sst2", logits, 5_000_000), "seconds": seconds})
    write_predictions(folder / "predictions.csv", logits, LABELS)
    (folder / "history.csv").write_text(history)


def evaluated(outputs: Path) -> Path:
    """Two tasks evaluated; on sst2 two rivals with two seeds each, one of them timed, and a benchmark."""
    for task in TASKS:
        models = {"teacher": (said(20), 10_000_000), "student": (said(22, 1), 5_000_000)}
        scored = {name: row(task, logits, size) for name, (logits, size) in models.items()}
        folder = write(outputs / "evaluate" / task, scored)
        for name, (logits, _) in models.items():
            write_predictions(folder / "predictions" / f"{name}.csv", logits, LABELS)
        for verb, seconds in (("finetune", 60.0), ("distill", 90.0)):
            (write(outputs / verb / task, {"seconds": seconds}) / "history.csv").write_text(HISTORY)
    for seed, wrong in ((1, 80), (2, 84)):
        rival(outputs, "svd", seed, said(wrong), 0.0, "step,epoch,loss\n")
        rival(outputs, "kd", seed, said(wrong // 3, seed), 10.0 * seed, HISTORY)
    cells = [
        ("teacher", "fp32", "real", 1, 10.0), ("student", "fp32", "real", 1, 4.0), ("student", "int8", "real", 1, 2.5),
        ("teacher", "fp32", 128, 8, 100.0), ("student", "int8", 128, 8, 20.0),
    ]  # fmt: skip
    keys = ("model", "variant", "length", "batch_size", "p50_ms")
    ratio = {"fp32/real/1": 2.6, "int8/real/1": 4.1, "int8/128/8": 5.5}
    write(outputs / "benchmark/sst2", {"cells": [dict(zip(keys, c, strict=True)) for c in cells], "ratio": ratio})
    write(outputs / "race/sst2/kd", {"p50_ms": 15.0, "speedup": 2.0, "load": 4.5, "cores": 4})
    write(outputs / "race/sst2/svd", {})  # race.enabled: false
    return outputs


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return evaluated(tmp_path / "outputs")


class Notes(Run):
    """A tracked run that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.children: dict[str, tuple[dict, dict]] = {}

    def child(self, name: str, params: dict, metrics: dict) -> None:
        self.children[name] = params, metrics


def made(outputs: Path, settings: Compare | None = None, run: Run | None = None, **changes) -> Path:
    """The folder that compare wrote."""
    folder = outputs.parent / "out"
    folder.mkdir()
    compare(
        settings or Compare(), tasks=TASKS, sources=Sources(outputs=outputs), output=folder, run=run or Run(),
        **({"students": STUDENTS, "seeds": [1, 2], "resamples": 500, "seed": 0} | changes),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Notes]:
    """What compare makes of it with nothing out of the ordinary, and its tracked run."""
    notes = Notes()
    return made(evaluated(tmp_path_factory.mktemp("compared") / "outputs"), run=notes), notes


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "table.csv").set_index(["task", "model"])


def test_every_model_is_in_the_table_with_its_own_figures(compared: tuple[Path, Notes]) -> None:
    table = table_of(compared[0])
    assert list(table.loc["sst2"].index) == ["teacher", "student", "svd", "kd"]
    assert list(table.loc["cola"].index) == ["teacher", "student"]
    student, kd = table.loc[("sst2", "student")], table.loc[("sst2", "kd")]
    assert (student.seeds, student.score, student.low, student.high) == (1, 89.0, 87.75, 91.25), "evaluate's interval"
    assert student.retention == pytest.approx(100 * 89 / 90)
    assert (student.layer_parameters, student.parameters, student.bytes) == (5e6, 1e7, 4e7)
    assert (student.p50_ms, student.speedup, student.seconds) == (4.0, 2.6, 90.0)
    assert (kd.seeds, kd.score, kd.seconds) == (2, (87.0 + 86.0) / 2, 15.0), "means over seeds"
    assert kd.low < 86.5 < kd.high and (kd.low, kd.high) != (86.5 - 1.25, 86.5 + 2.25), "seeds drawn, too"
    assert (kd.p50_ms, kd.speedup) == (5.0, 2.0), "the benchmark's teacher over the speed-up of the race"
    assert (table.loc[("sst2", "teacher")].p50_ms, table.loc[("sst2", "teacher")].seconds) == (10.0, 60.0)
    assert np.isnan(table.loc[("sst2", "svd")].speedup) and np.isnan(table.loc[("cola", "teacher")].p50_ms)


def test_p_is_against_the_best_student(compared: tuple[Path, Notes]) -> None:
    table = table_of(compared[0])
    assert np.isnan(table.loc[("sst2", "student")].p), "the best itself"
    assert table.loc[("sst2", "svd")].p == pytest.approx(2 / 501)
    models = {"student": said(22, 1)[None], "kd": np.stack([said(26, 1), said(28, 2)])}
    p = p_value(*resampled(TASKS["sst2"], models, LABELS, 500, 7).values())
    assert 0.1 < table.loc[("sst2", "kd")].p == pytest.approx(p, abs=0.12)


def test_the_settings_choose_the_latency(outputs: Path) -> None:
    table = table_of(made(outputs, Compare(variant="int8", length=128, batch_size=8)))
    assert tuple(table.loc[("sst2", "student")][["p50_ms", "speedup"]]) == (20.0, 5.5)


def test_a_cell_that_was_not_measured_is_said(outputs: Path, capsys: pytest.CaptureFixture) -> None:
    table = table_of(made(outputs, Compare(batch_size=32)))
    assert np.isnan(table.loc[("sst2", "student")].p50_ms)
    assert table.loc[("sst2", "kd")].p50_ms == 15.0, "its own, as there is no teacher's"
    said = capsys.readouterr().out
    assert "sst2 has no latency for fp32, length real, batch 32" in said
    assert "others used the machine (load 4.5 on 4 cores) while kd was timed" in said


def test_the_summary_names_the_best_rival_and_the_front(compared: tuple[Path, Notes]) -> None:
    metrics = json.loads((compared[0] / "metrics.json").read_text())
    front = {"retention": pytest.approx(100 * 89 / 90), "best_baseline": "kd", "margin": 2.5, "pareto": ["student"]}
    assert metrics["sst2"] == front and metrics["cola"].keys() == {"retention", "pareto"}


def test_without_rivals_the_main_chain_is_compared(outputs: Path) -> None:
    table = table_of(made(outputs, students={"student": STUDENTS["student"]}))
    assert list(table.loc["sst2"].index) == ["teacher", "student"]


def test_a_teacher_alone_and_nothing_trained(outputs: Path) -> None:
    """The plots bear it: a student not yet made, rivals that are not trained."""
    scored = json.loads((outputs / "evaluate/sst2/metrics.json").read_text())
    write(outputs / "evaluate/sst2", {"teacher": scored["teacher"]})
    (outputs / "evaluate/cola/metrics.json").unlink()
    assert list(table_of(made(outputs, students={"svd": STUDENTS["svd"]})).loc["sst2"].index) == ["teacher", "svd"]


def test_a_seed_that_was_not_run_is_left_out(outputs: Path, capsys: pytest.CaptureFixture) -> None:
    assert table_of(made(outputs, seeds=[2, 3])).loc[("sst2", "kd")].score == 86.0
    assert f"{outputs / 'baseline/sst2/kd/3/metrics.json'} does not exist" in capsys.readouterr().out


def test_text_and_plots_are_for_people(outputs: Path, capsys: pytest.CaptureFixture) -> None:
    folder = made(outputs, Compare(limit=Limit(retention=0.9, latency_ms=4.5)))
    text = (folder / "table.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.split("### cola")[0].splitlines() if " to " in line]
    assert rows == ["teacher", "student", "kd", "svd"], "teacher, then best first"
    assert "98.9 %" in text and "2.60x" in text and "< 0.01" in text and "nan" not in text.lower()
    assert "Take student: the smallest with latency_ms <= 4.5 and retention >= 0.9" in text
    assert "No student has latency_ms <= 4.5" in text.split("### cola")[1], "not measured there"
    assert text in capsys.readouterr().out
    for name in ("score_size", "score_latency", "score_cost", "bars", "curves"):
        assert (folder / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_every_model_is_a_run_below_this_one(compared: tuple[Path, Notes]) -> None:
    notes = compared[1]
    names = {"sst2": ["teacher", "student", "svd", "kd"], "cola": ["teacher", "student"]}
    assert list(notes.children) == [f"{task}-{model}" for task in names for model in names[task]]
    params, figures = notes.children["sst2-kd"]
    assert (params["recipe"], params["seeds"]) == ("kd", 2) and params["distill"]["learning_rate"] == 1e-4
    assert figures["score"] == 86.5 and figures["speedup"] == 2.0
    params, figures = notes.children["sst2-svd"]
    assert params["factorize"]["decomposition"] == "svd" and params["distill"] is None
    assert "speedup" not in figures, "what was not measured is not a figure"


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no scores of sst2, cola"):
        made(tmp_path / "none")


def test_scores_on_other_examples_are_refused(outputs: Path) -> None:
    write_predictions(outputs / "baseline/sst2/kd/2/predictions.csv", said(20), 1 - LABELS)
    with pytest.raises(BadInput, match=r"kd/2/predictions\.csv and .*teacher\.csv are not of the same examples"):
        made(outputs)


def models(**figures: tuple[float, int, float]) -> list[dict]:
    """Students by score, parameters (millions) and latency."""
    return [
        {"model": name, "score": score, "retention": score, "parameters": size * 1e6, "layer_parameters": size * 1e6,
         "bytes": 4e6 * size, "p50_ms": latency}
        for name, (score, size, latency) in figures.items()
    ]  # fmt: skip


NONE = float("nan")
FIVE = models(big=(90, 20, 5.0), small=(80, 10, 3.0), slow=(80, 10, 4.0), worse=(79, 11, 3.1), quick=(70, 12, 2.0))


def test_the_front_holds_those_that_no_other_beats() -> None:
    assert front(FIVE) == ["big", "small", "quick"]
    assert front(models(a=(90, 20, 5.0), b=(80, 19.9, 4.9))) == ["a"], "within 1 % and 5 % is the same"
    assert front(models(a=(90, 20, NONE), b=(80, 20, 1.0), c=(85, 10, NONE))) == ["a", "c"], "unknown is not compared"
    assert front(models(a=(90, 20, 5.0), twin=(90, 20, 5.0))) == ["a", "twin"] and front([]) == []


def test_the_front_equals_brute_force() -> None:
    """Sizes and latencies that are equal or a fifth apart, so that what counts as equal does not matter."""
    rng = np.random.default_rng(0)
    figures = np.column_stack([rng.normal(80, 5, 60), 1.2 ** rng.integers(0, 12, (60, 2))])
    good = figures * [1, -1, -1]
    kept = [not any((other >= one).all() and (other > one).any() for other in good) for one in good]
    rows = models(**{f"m{i}": tuple(row) for i, row in enumerate(figures)})
    assert sorted(front(rows)) == sorted(f"m{i}" for i, stays in enumerate(kept) if stays)
    assert 3 < sum(kept) < 40


@pytest.mark.parametrize(
    ("limit", "model", "sentence"),
    [
        ({"latency_ms": 4.5}, "small", "the best score with latency_ms <= 4.5"),
        ({"params": 12_500_000}, "small", "params <= 1.25e+07"),
        ({"layer_params": 30_000_000}, "big", "score 90.00"),
        ({"bytes": 1}, None, "No student has bytes <= 1; nearest is small (bytes 4e+07)."),
        ({"retention": 0.8}, "small", "the smallest with retention >= 0.8"),
        ({"retention": 0.85}, "big", "the smallest with retention >= 0.85"),
        ({"retention": 0.95}, None, "nearest is big (retention 0.9)"),
        ({"retention": 0.7, "latency_ms": 2.5}, "quick", "latency_ms <= 2.5 and retention >= 0.7"),
    ],
)
def test_the_student_to_take(limit: dict, model: str | None, sentence: str) -> None:
    found = pick(FIVE, Limit(**limit))
    assert found.model == model and sentence in found.sentence


def test_what_was_not_measured_is_not_within_a_limit() -> None:
    unknown = models(a=(90, 20, NONE))
    assert pick(unknown, Limit(latency_ms=5)).model is None
    assert "none has all these figures" in pick(unknown, Limit(latency_ms=5)).sentence
    assert pick(unknown + models(b=(80, 20, 4.0)), Limit(latency_ms=5)).model == "b"


def test_points_of_one_place_fan_out_around_it_and_others_stay() -> None:
    assert spread([1.0, 5.0, 5.0, 5.0, 9.0], 0.5) == pytest.approx([1.0, 4.5, 5.0, 5.5, 9.0])
    assert spread([0.0, 1.0], 0.5) == [0.0, 1.0] and spread([3.0], 0.5) == [3.0]
    crowd = spread([2.0, 2.0, 2.3, 2.4], 0.5)
    assert min(np.diff(crowd)) >= 0.5 - 1e-9 and np.mean(crowd) == pytest.approx(np.mean([2.0, 2.0, 2.3, 2.4]))
