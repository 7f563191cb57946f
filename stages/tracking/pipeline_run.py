"""The MLflow run of a whole pipeline (one `dvc repro`, one Prefect flow), above the runs of its stages.

It is what people compare: its name tells tasks, budget and objectives, its parameters the settings that were changed,
its metrics the headline results of each task; it has the dataset, the registered models, and the table of the
comparison as its description.
"""

from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Param

from stages.tracking.context import find_checkout, get_tracking_uri
from stages.tracking.journal import Entry

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Marks an experiment as model training, so that the UI opens with its runs and not with traces."""


@dataclass(frozen=True)
class PipelineRun:
    """A pipeline's run on the server."""

    client: MlflowClient
    experiment: str
    run: str

    @classmethod
    def of_entry(cls, client: MlflowClient, experiment: str, entry: Entry) -> "PipelineRun":
        """The run of the pipeline that a stage's first line names; created where there is none yet."""
        pipeline = entry["pipeline"]
        tags = {key: value for key, value in entry["tags"].items() if "git" in key or key == "dvc_exp_name"}
        name = f"{pipeline['name']} · {tags['dvc_exp_name']}" if "dvc_exp_name" in tags else pipeline["name"]
        run = find_or_create_run(client, experiment, "makd.pipeline", pipeline["key"], entry | {"name": name}, tags)
        known = client.get_run(run).data.params
        params = [Param(key, value) for key, value in pipeline["params"].items() if key not in known]
        for first in range(0, len(params), 100):
            client.log_batch(run, params=params[first : first + 100])
        client.update_run(run, status="RUNNING")
        return cls(client, experiment, run)

    def log_metrics(self, values: dict[str, float], time: int) -> None:
        self.client.log_batch(self.run, metrics=[Metric(name, value, time, 0) for name, value in values.items()])

    def describe(self, text: str) -> None:
        """Markdown that the UI shows as the run's description."""
        self.client.set_tag(self.run, "mlflow.note.content", text)

    def log_model(self, model: str) -> None:
        """Shows a logged model (id), and its registered version, on this run too."""
        self.client.log_outputs(self.run, [LoggedModelOutput(model, step=0)])

    def settle_status(self) -> None:
        """The pipeline's run ends with its last stage, as badly as the worst of them."""
        children = self.client.search_runs(
            [self.experiment], f"tags.`mlflow.parentRunId` = '{self.run}'", max_results=1000
        )
        statuses = {child.info.status for child in children}
        worst = next(status for status in ("RUNNING", "FAILED", "KILLED", "FINISHED") if status in statuses)
        if worst != "RUNNING":
            last = max(child.info.end_time or 0 for child in children)
            self.client.set_terminated(self.run, worst, last)


def find_or_create_run(
    client: MlflowClient, experiment: str, key: str, value: str, entry: Entry, tags: dict[str, str]
) -> str:
    """The run with the tag `key`; created, with the entry's name and time, where there is none yet."""
    found = client.search_runs([experiment], f"tags.`{key}` = '{value}'", max_results=1)
    if found:
        return found[0].info.run_id
    run = client.create_run(experiment, entry["time"], tags | {key: value}, run_name=entry["name"])
    return run.info.run_id


def find_pipeline_run(key: str) -> tuple[str, str, str]:
    """Server, experiment id and run id of a pipeline.

    Raises:
        LookupError: MLflow has no such run (yet).
    """
    uri = get_tracking_uri(find_checkout())
    if uri.startswith("sqlite:") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise LookupError(f"{uri} does not exist")  # asking would create it
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    if found := client.search_runs(experiments, f"tags.`makd.pipeline` = '{key}'", max_results=1):
        return client.tracking_uri, found[0].info.experiment_id, found[0].info.run_id
    raise LookupError(f"no run of {key} in {client.tracking_uri}")
