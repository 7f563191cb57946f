"""A stage's run in the checkout's own MLflow database: whole, with its end, whatever happens to the stage."""

import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from stages.tracking.journal import list_journals
from tests.makers.processes import PATIENCE, wait_for, wait_for_delivery
from tests.makers.tracking import get_database, list_runs, start_stage


def test_everything_arrives_in_the_checkouts_database_even_from_an_experiments_copy(tmp_path: Path) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    environment = {"MAKD_PIPELINE": "compress test", "DVC_STAGE": "distill@sst2", "DVC_EXP_NAME": "half"}
    process = start_stage(copy, 50, **environment)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    wait_for_delivery(tmp_path)
    client = MlflowClient(get_database(tmp_path))
    child, parent = sorted(list_runs(get_database(tmp_path)), key=lambda run: "makd.pipeline" in run.data.tags)
    assert parent.data.tags["makd.pipeline"] == "compress test" and parent.info.status == "FINISHED"
    assert parent.info.run_name == "sst2 · budget 0.5 · makd · half"
    assert parent.data.metrics == {"sst2/score": 90.5}
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.info.run_name, child.info.status) == ("distill@sst2", "FINISHED")
    assert (child.data.tags["dvc_stage"], child.data.tags["dvc_exp_name"]) == ("distill@sst2", "half")
    assert child.data.tags["mlflow.source.name"] == "stages/distill.py"
    assert child.data.params["distill.objectives.kl.weight"] == "1.0"
    assert (child.data.params["task"], child.data.params["seed"]) == ("sst2", "42")
    assert child.inputs.dataset_inputs[0].dataset.digest == "a1b2c3"
    history = client.get_metric_history(child.info.run_id, "loss")
    assert {point.step: point.value for point in history} == {step: 1 / (step + 1) for step in range(50)}
    assert Path(client.download_artifacts(child.info.run_id, "terms.txt")).read_text() == "kept"
    assert child.info.artifact_uri.startswith(f"file://{tmp_path}/.makd/artifacts")
    wait_for(lambda: not list((tmp_path / ".makd" / "journal").iterdir()))


def test_first_use_by_four_at_once_with_one_parent_and_a_failure(tmp_path: Path) -> None:
    errors = ["", "", "", "weights went to infinity"]
    processes = [start_stage(tmp_path, 5, error=error, MAKD_PIPELINE="four") for error in errors]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 1], outputs
    wait_for_delivery(tmp_path)
    runs = list_runs(get_database(tmp_path))
    assert sorted((run.info.run_name, run.info.status) for run in runs) == [
        *[("distill@sst2", status) for status in ("FAILED", "FINISHED", "FINISHED", "FINISHED")],
        ("sst2 · budget 0.5 · makd", "FAILED"),
    ]
    failed = next(run for run in runs if "makd.error" in run.data.tags)
    assert failed.data.tags["makd.error"] == "ValueError: weights went to infinity"


@pytest.mark.slow
def test_a_killed_stage_is_recorded_as_killed(tmp_path: Path) -> None:
    process = start_stage(tmp_path, 100, wait_for=tmp_path / "never")
    folder = tmp_path / ".makd" / "journal"
    wait_for(lambda: any(journal.read_progress().get("run") for journal in list_journals(folder)))
    process.kill()
    process.wait()
    wait_for_delivery(tmp_path)  # by the process beside it, without another stage
    assert [run.info.status for run in list_runs(get_database(tmp_path))] == ["KILLED"]


def test_ranks_beside_the_first_leave_no_trace(tmp_path: Path) -> None:
    process = start_stage(tmp_path, 3, RANK="1")
    assert "trained" in process.communicate()[0]
    assert not (tmp_path / ".makd").exists()


def test_tracking_can_be_turned_off(tmp_path: Path) -> None:
    process = start_stage(tmp_path, 3, MAKD_TRACKING="off")
    assert "trained" in process.communicate()[0]
    assert not (tmp_path / ".makd").exists()


def test_a_stage_ends_although_the_server_never_answers(tmp_path: Path) -> None:
    """The server takes the connection and is silent; the process beside the stage would wait for it for an hour."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        uri, resume = f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path / "resume"
        environment = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "3600"}
        process = start_stage(tmp_path, 4, wait_for=resume, **environment)
        connection, _ = silent.accept()
        resume.touch()
        assert process.wait(PATIENCE) == 0
        (journal,) = list_journals(tmp_path / ".makd" / "journal")
        assert journal.has_ended() and not journal.claim(), "the process beside it still tries"
    connection.close()
    output = process.communicate()[0]  # until the process beside it has ended, too
    assert "trained" in output and output.count("does not answer") == 1 and "is kept" in output
