"""Tracking against real MLflow: the local database, and a server that goes away and comes back."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import settle, wait_for

ROOT = Path(__file__).resolve().parent.parent

STAGE = """
import sys, tempfile, time
from pathlib import Path
from stages import tracking
from stages.settings import Params

points, seconds, fail = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
with tracking.run("distill", "sst2", "", Params(tasks=["sst2"], tracking={"system_metrics": False})) as run:
    run.dataset("sst2", "a1b2c3", 67349)
    for step in range(points):
        run.metrics({"loss": 1 / (step + 1)}, step)
        time.sleep(seconds / points)
    with tempfile.TemporaryDirectory() as own:  # gone before it is sent; no other stage's
        terms = Path(own) / "terms.txt"
        terms.write_text("kept")
        run.artifact(terms)
    if fail:
        raise ValueError("weights went to infinity")
print("trained", flush=True)
"""


def stage(folder: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A stage at work in `folder`, as its own process."""
    words = [sys.executable, "-c", STAGE, *map(str, arguments)]
    variables = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        words, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def runs(uri: str) -> list:
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("makd")
    return client.search_runs([experiment.experiment_id]) if experiment else []


def send(folder: Path, uri: str) -> str:
    """`python -m stages.tracking` in the folder."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri}
    words = [sys.executable, "-m", "stages.tracking"]
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True).stdout


class Server:
    """A real MLflow server on loopback, which can be killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.process = folder, None
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        artifacts = ["--artifacts-destination", f"{self.folder}/artifacts"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, *store, *artifacts],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self.answers, 90)

    def answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200
        except OSError:
            return False

    def kill(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def test_everything_arrives_in_the_checkouts_database_even_from_an_experiments_copy(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    environment = {"MAKD_PIPELINE": "compress test", "DVC_STAGE": "distill@sst2", "DVC_EXP_NAME": "half"}
    process = stage(copy, 50, 0, **environment)
    assert process.wait() == 0, process.stdout.read()
    settle(tmp_path)
    uri = f"sqlite:///{tmp_path}/.makd/mlflow.db"
    child, parent = sorted(runs(uri), key=lambda run: run.info.run_name == "compress test")
    client = MlflowClient(uri)
    assert parent.info.run_name == "compress test" and parent.info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.info.run_name, child.info.status) == ("distill@sst2", "FINISHED")
    assert (child.data.tags["dvc_stage"], child.data.tags["dvc_exp_name"]) == ("distill@sst2", "half")
    assert child.data.params["distill.objectives.kl.weight"] == "1.0"
    assert (child.data.params["task"], child.data.params["seed"]) == ("sst2", "42")
    assert child.inputs.dataset_inputs[0].dataset.digest == "a1b2c3"
    history = client.get_metric_history(child.info.run_id, "loss")
    assert {point.step: point.value for point in history} == {step: 1 / (step + 1) for step in range(50)}
    assert Path(client.download_artifacts(child.info.run_id, "terms.txt")).read_text() == "kept"
    assert child.info.artifact_uri.startswith(f"file://{tmp_path}/.makd/artifacts")
    wait_for(lambda: not list((tmp_path / ".makd" / "journal").iterdir()), 10)


def test_first_use_by_four_at_once_with_one_parent_and_a_failure_told(tmp_path: Path) -> None:
    together = [stage(tmp_path, 5, 0, *fail, MAKD_PIPELINE="four") for fail in ([], [], [], ["fail"])]
    outputs = [process.communicate()[0] for process in together]
    assert [process.returncode for process in together] == [0, 0, 0, 1], outputs
    settle(tmp_path)
    found = runs(f"sqlite:///{tmp_path}/.makd/mlflow.db")
    statuses = sorted((run.info.run_name, run.info.status) for run in found)
    assert statuses == [
        *[("distill@sst2", s) for s in ("FAILED", "FINISHED", "FINISHED", "FINISHED")],
        ("four", "FAILED"),
    ]
    failed = next(run for run in found if "makd.error" in run.data.tags)
    assert failed.data.tags["makd.error"] == "ValueError: weights went to infinity"


@pytest.mark.slow
def test_a_killed_stage_is_told_as_killed(tmp_path: Path) -> None:
    from stages.tracking.journal import left_over

    process = stage(tmp_path, 100, 60)
    folder = tmp_path / ".makd" / "journal"
    wait_for(lambda: any(journal.progress().get("run") for journal in left_over(folder)), 60)
    process.kill()
    process.wait()
    settle(tmp_path)  # by the process beside it, without another stage
    assert [run.info.status for run in runs(f"sqlite:///{tmp_path}/.makd/mlflow.db")] == ["KILLED"]


def test_ranks_beside_the_first_leave_no_trace(tmp_path: Path) -> None:
    process = stage(tmp_path, 3, 0, RANK="1")
    assert "trained" in process.communicate()[0]
    assert not (tmp_path / ".makd").exists()


def test_a_server_that_goes_away_and_comes_back_loses_nothing(server: Server, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    down = time.monotonic()
    process = stage(tmp_path, 20, 0.5, MLFLOW_TRACKING_URI=server.uri)  # down from the start
    output = process.communicate()[0]
    assert process.returncode == 0 and "trained" in output
    assert output.count("does not answer") == 1 and "is kept" in output
    assert time.monotonic() - down < 40

    server.start()
    process = stage(tmp_path, 200, 14, MLFLOW_TRACKING_URI=server.uri)  # sends the first one's journal, too
    wait_for(lambda: len([run for run in runs(server.uri) if "loss" in run.data.metrics]) == 2, 60)
    server.kill()  # in mid-run
    output = process.communicate()[0]
    assert process.returncode == 0 and "trained" in output and output.count("does not answer") == 1
    server.start()
    assert "sent" in send(tmp_path, server.uri)
    assert "nothing to send" in send(tmp_path, server.uri)

    client, found = MlflowClient(server.uri), runs(server.uri)
    assert [run.info.status for run in found] == ["FINISHED", "FINISHED"]
    assert sorted(len(client.get_metric_history(run.info.run_id, "loss")) for run in found) == [20, 200]
    assert all(client.list_artifacts(run.info.run_id)[0].path == "terms.txt" for run in found)
    assert all(
        point.timestamp <= run.info.end_time
        for run in found
        for point in client.get_metric_history(run.info.run_id, "loss")
    )


def test_what_was_sent_without_an_answer_is_not_there_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a time-out: the journal says that nothing was sent, MLflow has it all."""
    from mlflow import MlflowClient

    from stages.tracking.delivery import Delivery
    from stages.tracking.journal import Journal

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    journal = Journal.create(tmp_path / ".makd" / "journal", "distill@sst2")
    start = {
        "name": "distill@sst2",
        "experiment": "makd",
        "params": {"seed": "42"},
        "tags": {},
        "pipeline": "p",
    }
    journal.append("start", **start, process=["", 0, 0.0], monitor=False)
    journal.append("metrics", values={"loss": 0.5, "nan": float("nan")}, step=1)
    journal.append("metrics", values={"loss": 0.4}, step=2)
    journal.append("metrics", values={"a:bad*name": 0.4}, step=2)
    assert not Delivery(journal, tmp_path).send()
    journal.note({})
    journal.append("end", status="FINISHED", error="")
    assert Delivery(journal, tmp_path).send()
    uri = f"sqlite:///{tmp_path}/.makd/mlflow.db"
    assert sorted(run.info.run_name for run in runs(uri)) == ["distill@sst2", "p"]
    client, (run,) = MlflowClient(uri), [run for run in runs(uri) if run.info.run_name != "p"]
    assert [point.value for point in client.get_metric_history(run.info.run_id, "loss")] == [0.5, 0.4]


def test_what_a_stage_compares_is_a_run_each_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    from stages.tracking import Run
    from stages.tracking.delivery import Delivery
    from stages.tracking.journal import Journal

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    journal = Journal.create(tmp_path, "compare")
    start = {"name": "compare", "experiment": "makd", "params": {}, "tags": {}, "pipeline": "p"}
    journal.append("start", **start, process=["", 0, 0.0], monitor=False)
    run, blocks = Run(journal), {f"setting_{i}": i for i in range(150)}  # MLflow takes 100 parameters at once
    run.child("sst2-svd", {"recipe": "svd", "factorize": {"budget": 0.5}, "distill": None} | blocks, {"score": 60})
    run.child("sst2-kd", {"recipe": "kd", "distill": {"learning_rate": 1e-4}}, {"score": 85.5, "speedup": 2.0})
    assert not Delivery(journal, tmp_path).send()
    journal.note({})  # an answer that was lost: all is sent again
    journal.append("end", status="FINISHED", error="")
    assert Delivery(journal, tmp_path).send()
    uri = f"sqlite:///{tmp_path}/.makd/mlflow.db"
    assert sorted(run.info.run_name for run in runs(uri)) == ["compare", "p", "sst2-kd", "sst2-svd"]
    found = {run.info.run_name: run for run in runs(uri)}
    svd, kd = found["sst2-svd"], found["sst2-kd"]
    for child in (svd, kd):
        assert child.data.tags["mlflow.parentRunId"] == found["compare"].info.run_id
        assert child.info.status == "FINISHED" and child.info.end_time >= child.info.start_time
    assert found["p"].info.status == "FINISHED", "the pipeline's end is that of its stages"
    assert (svd.data.params["recipe"], svd.data.params["factorize.budget"]) == ("svd", "0.5")
    assert svd.data.params["distill"] == "null" and len(svd.data.params) == 153
    assert kd.data.params["distill.learning_rate"] == "0.0001" and kd.data.metrics == {"score": 85.5, "speedup": 2.0}
    assert [point.value for point in MlflowClient(uri).get_metric_history(kd.info.run_id, "score")] == [85.5]


def test_a_torn_line_is_left_out_and_the_rest_counts(tmp_path: Path) -> None:
    from stages.tracking.journal import Journal

    journal = Journal.create(tmp_path, "x")
    journal.append("start", process=["", 0, 0.0])
    with journal.path.open("a") as file:
        file.write('{"kind": "metrics", "val')
    assert [entry["kind"] for entry, _ in journal.unsent()] == ["start"]
    journal.mend()
    assert [entry["kind"] for entry, _ in journal.unsent()] == ["start", "end"]
    assert json.loads(journal.path.read_text().splitlines()[-1])["status"] == "KILLED"


def test_the_nearest_dvc_process_names_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    from stages.tracking import context

    monkeypatch.delenv("MAKD_PIPELINE", raising=False)
    assert context.pipeline() is None
    command = "import time, sys; sys.argv = ['dvc']; print('there', flush=True); time.sleep(60)"
    process = subprocess.Popen(["dvc", "-c", command], executable=sys.executable, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"there\n"  # it has become that command
        monkeypatch.setattr(psutil.Process, "parents", lambda self: [psutil.Process(process.pid)])
        assert context.pipeline().endswith(f":{process.pid}")
    finally:
        process.kill()
        process.wait()
