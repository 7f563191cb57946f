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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
STAGES = ["prepare", "finetune", "factorize", "distill", "baseline", "evaluate", "export", "benchmark", "race"]
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
"""For what runs again: that it is tracked is asked of the first run."""


class Project:
    """A clone of a checkout, with DVC and a tracking store of its own."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        subprocess.run(["git", "clone", "-q", str(checkout), str(folder)], check=True)
        self.folder = folder

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """`dvc ...` in a process group of its own, with `more` in its environment."""
        away = ("MLFLOW_", "DVC_", "MAKD_", "PREFECT_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(away)}
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

    def dvc(self, *arguments: str, **more: str) -> str:
        """What `dvc ...` said; it must succeed."""
        process = self.start(*arguments, **more)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said[-5000:]
        return said

    def kill_in(self, stage: str, *arguments: str) -> None:
        """SIGKILL for `dvc ...` and all below it, once the stage has written its first whole checkpoint."""
        process = self.start(*arguments)
        self.wait_for(lambda: list(self.folder.glob(f".makd/state/{stage}/**/complete")), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    @staticmethod
    def wait_for(true: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert process.poll() is None and time.monotonic() < end, "it ended before it could be killed"
            time.sleep(0.01)

    def results(self) -> dict[str, Any]:
        """All that must be the same in every run: metrics without seconds, loss curves, weights."""
        found: dict[str, Any] = {}
        for path in sorted((self.folder / "outputs").rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.name == "metrics.json" and "benchmark" not in name and "compare" not in name:
                found[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
            elif path.name in ("history.csv", "ranks.csv", "model.safetensors"):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


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
    here = {"base": {"model": str(tiny_model)}, "data": {"source": str(tiny_data), "custom": custom}}
    change(folder, SETTINGS | here)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "start"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def change(folder: Path, settings: dict[str, Any]) -> None:
    """Writes params.yaml with other values for what is named."""
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    for name, value in settings.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(values))


@pytest.fixture(scope="module")
def project(checkout: Path) -> Project:
    """The chain, run once from its beginning to its end."""
    found = Project(checkout, checkout.parent / "project")
    said = found.dvc("repro")
    assert [stage for stage in STAGES if f"Running stage '{stage}@reviews" not in said] == []
    assert "Running stage 'compare'" in said and "### reviews" in said
    return found


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
    wanted = [f"{stage}@reviews" for stage in STAGES if stage not in ("baseline", "race")]
    wanted += ["baseline@reviews-svd-42", "race@reviews-svd", "compare", "reviews-teacher", "reviews-student"]
    assert {name: runs.get(name) for name in wanted} == dict.fromkeys(wanted, "FINISHED")


def test_a_second_repro_runs_nothing(project: Project) -> None:
    start = time.monotonic()
    said = project.dvc("repro")
    assert "Running stage" not in said and "Data and pipelines are up to date" in said
    assert time.monotonic() - start < 15, "5 s on a machine of one's own"


def test_dvc_shows_the_metrics(project: Project) -> None:
    shown = json.loads(project.dvc("metrics", "show", "--json"))[""]["data"]
    student = shown["outputs/evaluate/reviews/metrics.json"]["data"]["student"]
    assert 0 <= student["score"] <= 100


@pytest.mark.slow
def test_killed_twice_and_run_again_it_gives_the_same(project: Project, checkout: Path, tmp_path: Path) -> None:
    """From scratch elsewhere, killed in both trainings: the same digits, and nothing wrong in place."""
    other = Project(checkout, tmp_path / "project")
    for stage in ("finetune", "distill"):
        other.kill_in(stage, "repro", "evaluate")
        assert not list((other.folder / "outputs" / stage).rglob("model.safetensors"))
        assert not list((other.folder / "outputs" / stage).rglob("metrics.json"))
    other.dvc("repro", "evaluate")
    results = other.results()
    assert {"outputs/distill/reviews/metrics.json", "outputs/finetune/reviews/history.csv"} <= results.keys()
    expected = project.results()
    assert results == {name: expected[name] for name in results}


def test_without_rivals_the_chain_runs_too(project: Project) -> None:
    """Also where there has never been one: DVC wants the folders that compare reads to exist."""
    change(project.folder, {"baseline": {"recipes": []}})
    for stage in ("baseline", "race"):
        shutil.rmtree(project.folder / "outputs" / stage / "reviews")
    said = project.dvc("repro", **UNTRACKED)
    assert "Running stage 'compare'" in said and said.count("Running stage") == 1
    table = (project.folder / "outputs" / "compare" / "table.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in table[1:]] == ["teacher", "student"]


def test_a_changed_budget_costs_no_new_teacher(project: Project) -> None:
    """Last in this file: it changes the project."""
    before = project.results()
    change(project.folder, {"factorize": {"budget": 0.4}})
    said = project.dvc("repro", "evaluate", **UNTRACKED)
    assert "Stage 'finetune@reviews' didn't change, skipping" in said
    for stage in ("factorize", "distill", "evaluate"):
        assert f"Running stage '{stage}@reviews'" in said
    after = project.results()
    name = "outputs/evaluate/reviews/metrics.json"
    assert after[name]["teacher"] == before[name]["teacher"]
    assert after[name]["student"]["layer_parameters"] < before[name]["student"]["layer_parameters"]
