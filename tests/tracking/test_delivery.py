"""A journal on its way to MLflow: no line counts twice, a bad line takes no other with it."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from stages.tracking import Run
from tests.makers.tracking import create_journal, deliver_twice, get_database, list_runs

PIPELINE = {"key": "dvc 1", "name": "p", "params": {"seed": "42"}}


def test_what_was_sent_without_an_answer_is_not_stored_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a time-out: the journal says that nothing was sent, MLflow has it all."""
    journal = create_journal(tmp_path, "distill@sst2", PIPELINE, params={"seed": "42"})
    journal.append("metrics", values={"loss": 0.5, "nan": float("nan")}, step=1)
    journal.append("metrics", values={"loss": 0.4}, step=2)
    journal.append("metrics", values={"a:bad*name": 0.4}, step=2)
    deliver_twice(journal, tmp_path)
    assert "MLflow refused a line (metrics) of " in capsys.readouterr().out
    uri = get_database(tmp_path)
    assert sorted(run.info.run_name for run in list_runs(uri)) == ["distill@sst2", "p"]
    client, (run,) = MlflowClient(uri), [run for run in list_runs(uri) if run.info.run_name != "p"]
    assert [point.value for point in client.get_metric_history(run.info.run_id, "loss")] == [0.5, 0.4]


def test_what_a_stage_compares_is_a_run_each_below_it(tmp_path: Path) -> None:
    journal = create_journal(tmp_path, "compare", PIPELINE)
    run, blocks = Run(journal), {f"setting_{i}": i for i in range(150)}  # MLflow takes 100 parameters at once
    svd = {"recipe": "svd", "factorize": {"budget": 0.5}, "distill": None} | blocks
    run.log_child_run("sst2-svd", svd, {"score": 60})
    run.log_child_run("sst2-kd", {"recipe": "kd", "distill": {"learning_rate": 1e-4}}, {"score": 85.5, "speedup": 2.0})
    deliver_twice(journal, tmp_path)
    uri = get_database(tmp_path)
    assert sorted(run.info.run_name for run in list_runs(uri)) == ["compare", "p", "sst2-kd", "sst2-svd"]
    runs = {run.info.run_name: run for run in list_runs(uri)}
    svd, kd = runs["sst2-svd"], runs["sst2-kd"]
    for child in (svd, kd):
        assert child.data.tags["mlflow.parentRunId"] == runs["compare"].info.run_id
        assert child.info.status == "FINISHED" and child.info.end_time >= child.info.start_time
    assert runs["p"].info.status == "FINISHED", "the pipeline's end is that of its stages"
    assert (svd.data.params["recipe"], svd.data.params["factorize.budget"]) == ("svd", "0.5")
    assert svd.data.params["distill"] == "null" and len(svd.data.params) == 153
    assert kd.data.params["distill.learning_rate"] == "0.0001" and kd.data.metrics == {"score": 85.5, "speedup": 2.0}
    assert [point.value for point in MlflowClient(uri).get_metric_history(kd.info.run_id, "score")] == [85.5]
