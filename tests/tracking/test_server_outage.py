"""A server that goes away and comes back: the stages go on, and nothing is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.makers.processes import wait_for
from tests.makers.tracking import MLflowServer, list_runs, send_journals, start_stage


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    server = MLflowServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def count_points(server: MLflowServer) -> list[int]:
    """Logged losses of each run."""
    client = MlflowClient(server.uri)
    return sorted(len(client.get_metric_history(run.info.run_id, "loss")) for run in list_runs(server.uri))


def test_a_server_that_goes_away_and_comes_back_loses_nothing(server: MLflowServer, tmp_path: Path) -> None:
    process = start_stage(tmp_path, 20, MLFLOW_TRACKING_URI=server.uri)  # down from the start
    output = process.communicate()[0]
    assert process.returncode == 0 and "trained" in output
    assert output.count("does not answer") == 1 and "is kept" in output

    server.start()
    resume = tmp_path / "resume"
    process = start_stage(tmp_path, 200, wait_for=resume, MLFLOW_TRACKING_URI=server.uri)
    wait_for(lambda: count_points(server) == [20, 100])  # it sends the first one's journal, too
    server.kill()  # in mid-run
    resume.touch()
    output = process.communicate()[0]
    assert process.returncode == 0 and "trained" in output and output.count("does not answer") == 1
    server.start()
    assert "sent" in send_journals(tmp_path, server.uri)
    assert "nothing to send" in send_journals(tmp_path, server.uri)

    client, runs = MlflowClient(server.uri), list_runs(server.uri)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert count_points(server) == [20, 200]
    assert all(client.list_artifacts(run.info.run_id)[0].path == "terms.txt" for run in runs)
    assert all(
        point.timestamp <= run.info.end_time
        for run in runs
        for point in client.get_metric_history(run.info.run_id, "loss")
    )
