"""The whole chain as a user runs it: `dvc repro` in a fresh copy of the project, on a tiny random model.

What runs, what does not run again, and that the result is the same to the last digit, also after a SIGKILL.
"""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from glob import glob
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.makers.processes import wait_for

ROOT = Path(__file__).resolve().parents[2]
STAGES = [
    "prepare", "finetune", "factorize", "distill", "baseline", "evaluate", "export", "benchmark", "time_baselines",
]  # fmt: skip
TIMED = ("benchmark", "time_baselines", "compare")
"""What they write differs from run to run."""
TRAINING = {"epochs": 8, "batch_size": 16, "learning_rate": 3e-3, "log_every": 5}
SETTINGS: dict[str, Any] = {
    "tasks": ["reviews"],
    "prepare": {"max_length": 32},
    "finetune": TRAINING,
    "factorize": {"budget": 0.5, "multiple_of": 1, "calibration": {"examples": 32, "batch_size": 16}},
    "distill": TRAINING,
    "baseline": {"recipes": ["svd"]},
    "evaluate": {"bootstrap": 100},
    "export": {"variants": ["fp32"]},
    "benchmark": {"variants": ["fp32"], "batch_sizes": [1], "lengths": ["real"], "seconds": 0.1},
    "tracking": {"system_metrics": False},
}

UNTRACKED = {"MAKD_TRACKING": "off"}
"""For what runs again: that it is tracked is checked on the first run."""


class Project:
    """A clone of a checkout, with DVC and a tracking store of its own."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        subprocess.run(["git", "clone", "-q", str(checkout), str(folder)], check=True)
        self.folder = folder

    def start_dvc(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """`dvc ...` in a process group of its own, with `more` in its environment."""
        dropped = ("MLFLOW_", "DVC_", "MAKD_", "PREFECT_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / "dvc"),
            "HF_HUB_OFFLINE": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        } | more
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run_dvc(self, *arguments: str, **more: str) -> str:
        """The output of `dvc ...`, which must succeed."""
        process = self.start_dvc(*arguments, **more)
        output, _ = process.communicate()
        assert process.returncode == 0, output[-5000:]
        return output

    def kill_in(self, stage: str, *arguments: str) -> None:
        """SIGKILL for `dvc ...` and all below it, once the stage has written its first whole checkpoint."""
        process = self.start_dvc(*arguments)
        complete = f"{self.folder}/.makd/state/{stage}/**/complete"
        wait_for(lambda: process.poll() is not None or glob(complete, recursive=True), 600)
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def count_runs(self) -> int:
        """Tracked runs so far."""
        with sqlite3.connect(self.folder / ".makd" / "mlflow.db") as database:
            return database.execute("select count(*) from runs").fetchone()[0]

    def read_results(self) -> dict[str, Any]:
        """All that must be the same in every run: metrics without seconds, loss curves, weights."""
        results: dict[str, Any] = {}
        for path in sorted((self.folder / "outputs").rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.name == "metrics.json" and name.split("/")[1] not in TIMED:
                results[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
            elif path.name in ("history.csv", "ranks.csv", "model.safetensors"):
                results[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return results


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """This project's files as they are now, set to the tiny model and task, committed."""
    folder = tmp_path_factory.mktemp("chain") / "checkout"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(command, cwd=ROOT, text=True).split("\0")
    for name in names:
        if (ROOT / name).is_file() and (name.endswith(".gitkeep") or not name.startswith(("outputs/", "dvc.lock"))):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    custom = {"reviews": {"text": ["text"], "label": "label", "labels": ["bad", "good"]}}
    given = {"base": {"model": str(tiny_model)}, "data": {"source": str(tiny_data), "custom": custom}}
    change_settings(folder, SETTINGS | given)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "start"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def change_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes params.yaml with other values for what is named."""
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    for name, value in settings.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(values))


@pytest.fixture(scope="module")
def project(checkout: Path) -> Project:
    """The chain, run once from its beginning to its end."""
    project = Project(checkout, checkout.parent / "project")
    output = project.run_dvc("repro")
    assert [stage for stage in STAGES if f"Running stage '{stage}@reviews" not in output] == []
    assert "Running stage 'compare'" in output and "### reviews" in output
    return project


def test_every_output_is_there(project: Project) -> None:
    outputs = project.folder / "outputs"
    for stage in ("finetune", "factorize", "distill"):
        assert (outputs / stage / "reviews" / "model" / "config.json").is_file()
    for made in ("export", "teacher"):
        assert (outputs / made / "reviews" / "onnx" / "model.onnx").is_file()
    assert not list(outputs.rglob(".*.partial")), "nothing half-written is left"
    scored = json.loads((outputs / "evaluate" / "reviews" / "metrics.json").read_text())
    assert scored["teacher"]["score"] > 80, "one word decides the label: even a tiny model learns it"
    assert scored["student"]["layer_parameters"] <= 0.5 * scored["teacher"]["layer_parameters"]
    table = (outputs / "compare" / "table.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in table[1:]] == [
        ["reviews", "teacher"], ["reviews", "student"], ["reviews", "svd"],
    ]  # fmt: skip


def test_every_stage_is_a_tracked_run(project: Project) -> None:
    with sqlite3.connect(project.folder / ".makd" / "mlflow.db") as database:
        runs = dict(database.execute("select name, status from runs"))
        tags = "select count(*) from tags where key = 'makd.pipeline'"
        (pipelines,) = database.execute(tags).fetchone()
    names = [f"{stage}@reviews" for stage in STAGES if stage not in ("baseline", "time_baselines")]
    names += ["baseline@reviews-svd-42", "time_baselines@reviews-svd", "compare", "reviews-teacher", "reviews-student"]
    names += ["reviews · budget 0.5 · makd"]
    assert {name: runs.get(name) for name in names} == dict.fromkeys(names, "FINISHED")
    assert pipelines == 1, "the stages of one repro are below one run"


def test_a_second_repro_runs_no_stage(project: Project) -> None:
    lock, runs = (project.folder / "dvc.lock").read_bytes(), project.count_runs()
    output = project.run_dvc("repro")
    assert "Running stage" not in output and "Data and pipelines are up to date" in output
    assert ((project.folder / "dvc.lock").read_bytes(), project.count_runs()) == (lock, runs)


def test_dvc_shows_the_few_figures_that_experiments_are_compared_by(project: Project) -> None:
    shown = json.loads(project.run_dvc("metrics", "show", "--json"))[""]["data"]
    assert list(shown) == ["outputs/compare/metrics.json"], "the one metric of the chain"
    figures = shown["outputs/compare/metrics.json"]["data"]["reviews"]
    evaluated = json.loads((project.folder / "outputs/evaluate/reviews/metrics.json").read_text())
    assert 0 <= figures["score"] == round(evaluated["student"]["score"], 4) <= 100
    assert figures["teacher_score"] == round(evaluated["teacher"]["score"], 4)
    assert figures["layer_parameters"] == evaluated["student"]["layer_parameters"]
    assert {"retention", "best_baseline_score", "megabytes", "latency_ms", "speedup"} <= figures.keys()


@pytest.mark.slow
def test_killed_twice_and_run_again_it_gives_the_same(project: Project, checkout: Path, tmp_path: Path) -> None:
    """From scratch elsewhere, killed in both trainings: the same digits, and nothing wrong in place."""
    other = Project(checkout, tmp_path / "project")
    for stage in ("finetune", "distill"):
        other.kill_in(stage, "repro", "evaluate")
        assert not list((other.folder / "outputs" / stage).rglob("model.safetensors"))
        assert not list((other.folder / "outputs" / stage).rglob("metrics.json"))
    other.run_dvc("repro", "evaluate")
    results = other.read_results()
    assert {"outputs/distill/reviews/metrics.json", "outputs/finetune/reviews/history.csv"} <= results.keys()
    expected = project.read_results()
    assert results == {name: expected[name] for name in results}


def test_without_baselines_the_chain_runs_too(project: Project) -> None:
    """Also where there has never been one: DVC wants the folders that compare reads to exist."""
    change_settings(project.folder, {"baseline": {"recipes": []}})
    for stage in ("baseline", "time_baselines"):
        shutil.rmtree(project.folder / "outputs" / stage / "reviews")
    output = project.run_dvc("repro", **UNTRACKED)
    assert "Running stage 'compare'" in output and output.count("Running stage") == 1
    table = (project.folder / "outputs" / "compare" / "table.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in table[1:]] == ["teacher", "student"]


def test_a_changed_budget_costs_no_new_teacher(project: Project) -> None:
    """Last in this file: it changes the project."""
    before = project.read_results()
    change_settings(project.folder, {"factorize": {"budget": 0.4}})
    output = project.run_dvc("repro", "evaluate", **UNTRACKED)
    assert "Stage 'finetune@reviews' didn't change, skipping" in output
    for stage in ("factorize", "distill", "evaluate"):
        assert f"Running stage '{stage}@reviews'" in output
    after = project.read_results()
    name = "outputs/evaluate/reviews/metrics.json"
    assert after[name]["teacher"] == before[name]["teacher"]
    assert after[name]["student"]["layer_parameters"] < before[name]["student"]["layer_parameters"]
