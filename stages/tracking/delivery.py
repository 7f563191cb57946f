"""Sends a journal to MLflow, line by line, so that no line counts twice.

After each request the journal's `.sent` file notes how far it came. A request whose answer was lost is
made again, and MLflow does not mind: the run is found by its journal's id, equal metrics (name, step, time,
value) are one, tags and artifacts are overwritten, a model version is found by the journal's id and line.
"""

from collections.abc import Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException

from stages.tracking.context import get_tracking_uri
from stages.tracking.journal import Entry, Journal
from stages.tracking.pipeline_run import EXPERIMENT_TAGS, PipelineRun, find_or_create_run
from stages.tracking.registry import Version, register_version

REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
"""MLflow's errors that another try would not heal."""


class Delivery:
    """One journal, and how far it is sent."""

    def __init__(self, journal: Journal, checkout: Path) -> None:
        self._journal = journal
        self._checkout = checkout
        self._progress: dict[str, Any] = {"uri": get_tracking_uri(checkout), "offset": 0} | journal.read_progress()
        self._connected: MlflowClient | None = None

    @property
    def uri(self) -> str:
        return self._progress["uri"]

    def send(self) -> bool:
        """Sends what is not sent yet; True when the journal was finished and is gone.

        Raises:
            Exception: the server cannot be reached or does not work; nothing is lost, send again later.
        """
        entries = self._journal.read_unsent()
        if not entries:
            return False
        if "run" not in self._progress and entries[0][0]["kind"] != "start":
            self._journal.remove()  # killed before it had written a line
            return True
        for kind, same in groupby(entries, key=lambda line: line[0]["kind"]):
            size = 500 if kind == "metrics" else 1
            while batch := list(islice(same, size)):
                self._send_batch(kind, [entry for entry, _ in batch])
                self._progress["offset"] = batch[-1][1]
                self._journal.write_progress(self._progress)
        if any(entry["kind"] == "end" for entry, _ in entries):
            self._journal.remove()
            return True
        return False

    def _send_batch(self, kind: str, entries: list[Entry]) -> None:
        try:
            getattr(self, f"_send_{kind}")(*entries)
        except MlflowException as error:
            if error.error_code not in REFUSALS or kind == "start":
                raise
            if len(entries) > 1:  # one bad line must not take the others with it
                for entry in entries:
                    self._send_batch(kind, [entry])
                return
            print(f"tracking: MLflow refused a line ({kind}) of {self._journal.id}: {error}", flush=True)

    @property
    def _client(self) -> MlflowClient:
        if self._connected is None:
            # first use creates the database: two processes at once would break it
            with FileLock(self._checkout / ".makd" / "mlflow.lock"):
                mlflow.set_tracking_uri(self.uri)
                client = MlflowClient(self.uri)
                client.search_experiments(max_results=1)
            self._connected = client
        return self._connected

    @property
    def _run(self) -> str:
        return self._progress["run"]

    @property
    def _pipeline(self) -> PipelineRun | None:
        parent = self._progress["parent"]
        return PipelineRun(self._client, self._progress["experiment"], parent) if parent else None

    def _send_start(self, entry: Entry) -> None:
        tags = dict(entry["tags"])
        client = self._client
        with FileLock(self._checkout / ".makd" / "mlflow.lock"):
            experiment = self._find_experiment(entry["experiment"])
            pipeline = PipelineRun.of_entry(client, experiment, entry) if entry["pipeline"] else None
        if pipeline:
            tags["mlflow.parentRunId"] = pipeline.run
        run = find_or_create_run(self._client, experiment, "makd.journal", self._journal.id, entry, tags)
        self._progress |= {"run": run, "experiment": experiment, "parent": pipeline and pipeline.run}
        self._log_params(run, entry["params"])

    def _log_params(self, run: str, values: Mapping[str, str]) -> None:
        params = [Param(name, value) for name, value in values.items()]
        for first in range(0, len(params), 100):
            self._client.log_batch(run, params=params[first : first + 100])

    def _find_experiment(self, name: str) -> str:
        if found := self._client.get_experiment_by_name(name):
            return found.experiment_id
        local = (self._checkout / ".makd" / "artifacts").as_uri() if self.uri.startswith("sqlite") else None
        return self._client.create_experiment(name, artifact_location=local, tags=EXPERIMENT_TAGS)

    def _send_metrics(self, *entries: Entry) -> None:
        points = [
            Metric(name, value, entry["time"], entry["step"])
            for entry in entries
            for name, value in entry["values"].items()
        ]
        for first in range(0, len(points), 1000):
            self._client.log_batch(self._run, metrics=points[first : first + 1000])

    def _send_headline(self, entry: Entry) -> None:
        if self._pipeline:
            self._pipeline.log_metrics(entry["values"], entry["time"])

    def _send_description(self, entry: Entry) -> None:
        if self._pipeline:
            self._pipeline.describe(entry["text"])

    def _send_artifact(self, entry: Entry) -> None:
        path = self._journal.folder / entry["file"]
        if path.is_dir():
            self._client.log_artifacts(self._run, str(path), path.name)
        else:
            self._client.log_artifact(self._run, str(path))

    def _send_dataset(self, entry: Entry) -> None:
        profile = f'{{"num_rows": {entry["rows"]}}}'
        dataset = Dataset(entry["name"], entry["fingerprint"][:36], "local", entry["name"], profile=profile)
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "train and validation")])]
        for run in filter(None, (self._run, self._progress["parent"])):
            self._client.log_inputs(run, inputs)

    def _send_child(self, entry: Entry) -> None:
        tags = {"mlflow.parentRunId": self._run}
        key = f"{self._journal.id}:{entry['name']}"
        run = find_or_create_run(self._client, self._progress["experiment"], "makd.child", key, entry, tags)
        self._log_params(run, entry["params"])
        points = [Metric(name, value, entry["time"], 0) for name, value in entry["metrics"].items()]
        self._client.log_batch(run, metrics=points)
        self._client.set_terminated(run, "FINISHED", entry["time"])

    def _send_model(self, entry: Entry) -> None:
        version = Version(
            run=self._run,
            experiment=self._progress["experiment"],
            folder=self._journal.folder / entry["folder"],
            name=entry["name"],
            tags=entry["tags"],
            key=f"{self._journal.id}:{entry['time']}",
        )
        model = register_version(self._client, version)
        if self._pipeline:
            self._pipeline.log_model(model)

    def _send_challenger_tags(self, entry: Entry) -> None:
        version = self._client.get_model_version_by_alias(entry["name"], "challenger").version
        for key, value in entry["tags"].items():
            self._client.set_model_version_tag(entry["name"], version, key, value)

    def _send_end(self, entry: Entry) -> None:
        if entry["error"]:
            self._client.set_tag(self._run, "makd.error", entry["error"])
        self._client.set_terminated(self._run, entry["status"], entry["time"])
        if self._pipeline:
            self._pipeline.settle_status()
