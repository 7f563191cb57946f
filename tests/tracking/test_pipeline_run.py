"""The run of a whole pipeline, above those of its stages, as a real MLflow has it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from stages.settings import Params
from stages.tracking import Run
from stages.tracking.journal import Journal
from stages.tracking.parameters import list_changed_parameters, name_pipeline
from stages.tracking.pipeline_run import find_pipeline_run
from tests.makers.services import write_counting_model
from tests.makers.tracking import create_journal, deliver_twice, get_database, list_runs

PARAMS = Params(tasks=["sst2"], factorize={"budget": 0.25}, distill={"epochs": 5, "objectives": {"kl": {}}})
TABLE = "### sst2\n\n| model | score |\n|---|---|\n| student | 89.00 |\n"


def start_journal(folder: Path, name: str, params: Params, key: str = "dvc 1", **fields: Any) -> Journal:
    """The first line of a stage of that pipeline."""
    pipeline = {"key": key, "name": name_pipeline(params), "params": list_changed_parameters(params)}
    return create_journal(folder, name, pipeline, **fields)


def find_pipeline(folder: Path, key: str) -> MlflowRun:
    """The pipeline's run with all that it has."""
    (run,) = (run for run in list_runs(get_database(folder)) if run.data.tags.get("makd.pipeline") == key)
    return MlflowClient(get_database(folder)).get_run(run.info.run_id)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout with the runs of one pipeline of four stages, each sent twice, as after an answer that was lost."""
    folder = tmp_path_factory.mktemp("checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        tags = {"mlflow.source.git.commit": "abc", "git.dirty": "false", "dvc_exp_name": "half", "dvc_stage": "x"}
        journal = start_journal(folder, "prepare@sst2", PARAMS, tags=tags)
        Run(journal).log_dataset("sst2", "a1b2c3", 67349)
        deliver_twice(journal, folder)
        journal = start_journal(folder, "evaluate@sst2", PARAMS, tags=tags)
        Run(journal).log_headline({"sst2/score": 89.0, "sst2/retention": 98.9, "sst2/unknown": None})
        Run(journal).log_metrics({"student/score": 89.0})
        deliver_twice(journal, folder)
        journal = start_journal(folder, "export@sst2", PARAMS, tags=tags)
        Run(journal).log_model(write_counting_model(folder / "export", pair=False), "makd-sst2", {"score": 89.0})
        Run(journal).log_headline({"sst2/megabytes": 46.5})
        deliver_twice(journal, folder)
        journal = start_journal(folder, "compare", PARAMS, tags=tags)
        Run(journal).describe_pipeline(TABLE)
        deliver_twice(journal, folder)
        yield folder


def test_its_name_tells_tasks_budget_objectives_and_experiment(folder: Path) -> None:
    run = find_pipeline(folder, "dvc 1")
    assert run.info.run_name == "sst2 · budget 0.25 · kl · half"
    assert run.data.tags["mlflow.source.git.commit"] == "abc" and "dvc_stage" not in run.data.tags


def test_its_parameters_are_the_changed_settings_and_the_few_that_are_always_shown(folder: Path) -> None:
    shown = find_pipeline(folder, "dvc 1").data.params
    inner = {name for name in shown if shown[name] == "null" and name.startswith("distill.objectives.")}
    assert {name.split(".")[2] for name in inner} == {"attention_kl", "hidden", "matrices"}, "terms that were taken out"
    assert {name: value for name, value in shown.items() if name not in inner} == {
        "tasks": '["sst2"]',
        "base.model": "minilm",
        "data.source": "bundled",
        "seed": "42",
        "factorize.budget": "0.25",
        "distill.epochs": "5.0",
    }


def test_its_metrics_are_the_headline_results_of_its_stages(folder: Path) -> None:
    run, client = find_pipeline(folder, "dvc 1"), MlflowClient(get_database(folder))
    assert run.data.metrics == {"sst2/score": 89.0, "sst2/retention": 98.9, "sst2/megabytes": 46.5}
    assert [point.value for point in client.get_metric_history(run.info.run_id, "sst2/score")] == [89.0]


def test_its_dataset_is_that_of_prepare(folder: Path) -> None:
    (given,) = find_pipeline(folder, "dvc 1").inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("sst2", "a1b2c3")
    assert given.dataset.profile == '{"num_rows": 67349}'
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "train and validation")]


def test_its_outputs_are_the_logged_models(folder: Path) -> None:
    client = MlflowClient(get_database(folder))
    (version,) = client.search_model_versions("name = 'makd-sst2'")
    (output,) = find_pipeline(folder, "dvc 1").outputs.model_outputs
    assert version.source == f"models:/{output.model_id}"
    (stage,) = (run for run in list_runs(get_database(folder)) if run.info.run_name == "export@sst2")
    assert client.get_logged_model(output.model_id).source_run_id == stage.info.run_id
    assert version.tags["score"] == "89.0"


def test_its_description_is_the_table_of_the_comparison(folder: Path) -> None:
    assert find_pipeline(folder, "dvc 1").data.tags["mlflow.note.content"] == TABLE


def test_its_children_are_the_stages(folder: Path) -> None:
    runs = list_runs(get_database(folder))
    parent = find_pipeline(folder, "dvc 1")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    names = ["compare", "evaluate@sst2", "export@sst2", "prepare@sst2"]
    assert sorted(run.info.run_name for run in children) == names
    assert parent.info.status == "FINISHED" and parent.info.end_time == max(run.info.end_time for run in children)


def test_the_experiment_is_marked_as_model_training(folder: Path) -> None:
    """So that the UI opens with its runs and not with traces."""
    experiment = MlflowClient(get_database(folder)).get_experiment_by_name("makd")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_another_pipeline_is_another_run(folder: Path) -> None:
    journal = start_journal(folder, "distill@sst2", Params(), key="dvc 2")
    deliver_twice(journal, folder, status="FAILED")
    run = find_pipeline(folder, "dvc 2")
    assert (run.info.run_name, run.info.status) == ("sentiment · budget 0.5 · makd", "FAILED")
    assert find_pipeline(folder, "dvc 1").info.status == "FINISHED"


def test_a_stage_started_by_hand_has_no_pipeline(folder: Path) -> None:
    journal = create_journal(folder, "evaluate@cola")
    Run(journal).log_headline({"cola/score": 50.0})
    Run(journal).describe_pipeline(TABLE)
    deliver_twice(journal, folder)
    (run,) = (run for run in list_runs(get_database(folder)) if run.info.run_name == "evaluate@cola")
    assert "mlflow.parentRunId" not in run.data.tags and run.info.status == "FINISHED"
    assert run.data.metrics == {} and "mlflow.note.content" not in run.data.tags


def test_its_key_leads_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(folder)
    uri, experiment, run_id = find_pipeline_run("dvc 1")
    run = MlflowClient(uri).get_run(run_id)
    assert run.info.experiment_id == experiment and run.data.tags["makd.pipeline"] == "dvc 1"
    with pytest.raises(LookupError, match="no run of dvc 3 in sqlite"):
        find_pipeline_run("dvc 3")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LookupError, match=r"mlflow\.db does not exist"):
        find_pipeline_run("dvc 1")
    assert not (tmp_path / ".makd").exists(), "asking creates no database"
