"""Tracked stages in processes of their own, a real MLflow server, and what MLflow has of the runs."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from stages.tracking.delivery import Delivery
from stages.tracking.journal import Journal
from tests.makers.processes import PATIENCE, wait_for

ROOT = Path(__file__).resolve().parents[2]

STAGE = """
import json, sys, tempfile, time
from pathlib import Path
from stages.settings import Params
from stages.tracking import track_run

points, wait_for, error = (json.loads(sys.argv[1])[name] for name in ("points", "wait_for", "error"))
params = Params(tasks=["sst2"], tracking={"system_metrics": False})
with track_run("distill", params, task="sst2") as run:
    run.log_dataset("sst2", "a1b2c3", 67349)
    for step in range(points):
        while wait_for and step >= points // 2 and not Path(wait_for).exists():
            time.sleep(0.05)
        run.log_metrics({"loss": 1 / (step + 1)}, step)
    run.log_headline({"sst2/score": 90.5, "sst2/retention": None})
    with tempfile.TemporaryDirectory() as own:  # deleted before it is sent
        terms = Path(own) / "terms.txt"
        terms.write_text("kept")
        run.log_artifact(terms)
    if error:
        raise ValueError(error)
print("trained", flush=True)
"""


def start_stage(
    folder: Path, points: int, *, wait_for: Path | None = None, error: str = "", **environment: str
) -> subprocess.Popen[str]:
    """A stage at work in `folder`, as its own process.

    Args:
        wait_for: half of the points are logged before this file exists, half afterwards.
        error: the text of the exception that it ends with.
    """
    options = {"points": points, "wait_for": str(wait_for or ""), "error": error}
    variables = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-c", STAGE, json.dumps(options)],
        cwd=folder,
        env=variables | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def get_database(folder: Path) -> str:
    """The URI of a checkout's own database."""
    return f"sqlite:///{folder}/.makd/mlflow.db"


def list_runs(uri: str) -> list[MlflowRun]:
    """All runs of the experiment `makd`."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("makd")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def send_journals(folder: Path, uri: str) -> str:
    """The output of `python -m stages.tracking` in the folder."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri}
    words = [sys.executable, "-m", "stages.tracking"]
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True).stdout


def create_journal(folder: Path, name: str, pipeline: dict[str, Any] | None = None, **fields: Any) -> Journal:
    """A journal of a checkout with its first line, as `track_run` writes it."""
    journal = Journal.create(folder / ".makd" / "journal", name)
    start = {"name": name, "experiment": "makd", "params": {}, "tags": {}, "process": ["", 0, 0.0], "monitor": False}
    journal.append("start", **start | {"pipeline": pipeline} | fields)
    return journal


def deliver_twice(journal: Journal, folder: Path, status: str = "FINISHED") -> None:
    """Sends a journal, and all of it once more, as after a time-out whose answer was lost; then its end."""
    assert not Delivery(journal, folder).send()
    journal.write_progress({})
    journal.append("end", status=status, error="")
    assert Delivery(journal, folder).send()


class MLflowServer:
    """A real MLflow server on loopback, which can be killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        words = ["server", "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        artifacts = ["--artifacts-destination", f"{self._folder}/artifacts"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, *store, *artifacts],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._answers, 2 * PATIENCE)

    def _answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200
        except OSError:
            return False

    def kill(self) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
