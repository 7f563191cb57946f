"""Sends a journal to MLflow, line by line, so that no line counts twice.

After each request the journal's `.sent` file remembers how far it came. A request whose answer was lost is
made again, and MLflow does not mind: the run is found by its journal's id, equal metrics (name, step, time,
value) are one, tags and artifacts are overwritten, a model version is found by the journal's id and line.
"""

import os
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.tracking import context
from stages.tracking.journal import Entry, Journal

if TYPE_CHECKING:
    from mlflow import MlflowClient

REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
"""MLflow's errors that another try would not heal."""


def address(root: Path) -> str:
    """The server's address, or the checkout's own database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / '.makd' / 'mlflow.db'}"


def find_pipeline(name: str) -> tuple[str, str, str]:
    """Server, experiment id and run id of a pipeline run.

    Raises:
        LookupError: MLflow has no such run (yet).
    """
    uri = address(context.root())
    if uri.startswith("sqlite:") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise LookupError(f"{uri} does not exist")  # asking would create it
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    if found := client.search_runs(experiments, f"tags.`makd.pipeline` = '{name}'", max_results=1):
        return client.tracking_uri, found[0].info.experiment_id, found[0].info.run_id
    raise LookupError(f"no run of {name} in {client.tracking_uri}")


class Delivery:
    """One journal on its way to MLflow."""

    def __init__(self, journal: Journal, root: Path) -> None:
        self._journal = journal
        self._root = root
        self._progress = {"uri": address(root), "offset": 0} | journal.progress()
        self._client: MlflowClient | None = None

    @property
    def uri(self) -> str:
        return self._progress["uri"]

    def send(self) -> bool:
        """Sends what is not sent yet; True when the journal was finished and is gone.

        Raises:
            Exception: the server cannot be reached or does not work; nothing is lost, send again later.
        """
        entries = self._journal.unsent()
        if not entries:
            return False
        if "run" not in self._progress and entries[0][0]["kind"] != "start":
            self._journal.remove()  # killed before it had said a word
            return True
        self._connect()
        for kind, same in groupby(entries, key=lambda line: line[0]["kind"]):
            size = 500 if kind == "metrics" else 1
            while batch := list(islice(same, size)):
                self._once(kind, [entry for entry, _ in batch])
                self._progress["offset"] = batch[-1][1]
                self._journal.note(self._progress)
        if any(entry["kind"] == "end" for entry, _ in entries):
            self._journal.remove()
            return True
        return False

    def _once(self, kind: str, entries: list[Entry]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            getattr(self, f"_{kind}")(*entries)
        except MlflowException as error:
            if error.error_code not in REFUSALS or kind == "start":
                raise
            if len(entries) > 1:  # one bad line must not take the others with it
                for entry in entries:
                    self._once(kind, [entry])
                return
            print(f"tracking: MLflow refused a line ({kind}) of {self._journal.id}: {error}", flush=True)

    def _connect(self) -> None:
        if self._client:
            return
        from filelock import FileLock

        # first use creates the database: two processes at once would break it
        with FileLock(self._root / ".makd" / "mlflow.lock"):
            import mlflow

            mlflow.set_tracking_uri(self.uri)
            client = mlflow.MlflowClient(self.uri)
            client.search_experiments(max_results=1)
        self._client = client

    def _start(self, entry: Entry) -> None:
        from filelock import FileLock

        with FileLock(self._root / ".makd" / "mlflow.lock"):
            experiment = self._experiment(entry["experiment"])
            parent = self._parent(experiment, entry)
        tags = entry["tags"] | ({"mlflow.parentRunId": parent} if parent else {})
        run = self._run(experiment, "makd.journal", self._journal.id, entry, tags)
        self._progress |= {"run": run, "experiment": experiment, "parent": parent}
        self._params(run, entry["params"])

    def _params(self, run: str, values: dict[str, str]) -> None:
        params = [_entity("Param", name, value) for name, value in values.items()]
        for first in range(0, len(params), 100):
            self._client.log_batch(run, params=params[first : first + 100])

    def _experiment(self, name: str) -> str:
        if found := self._client.get_experiment_by_name(name):
            return found.experiment_id
        local = (self._root / ".makd" / "artifacts").as_uri() if self.uri.startswith("sqlite") else None
        return self._client.create_experiment(name, artifact_location=local)

    def _parent(self, experiment: str, entry: Entry) -> str | None:
        if not (name := entry["pipeline"]):
            return None
        tags = {key: value for key, value in entry["tags"].items() if "git" in key or key == "dvc_exp_name"}
        parent = self._run(experiment, "makd.pipeline", name, entry | {"name": name}, tags)
        self._client.update_run(parent, status="RUNNING")
        return parent

    def _run(self, experiment: str, key: str, value: str, entry: Entry, tags: dict[str, str]) -> str:
        """The run that carries the tag `key`; created where there is none yet."""
        found = self._client.search_runs([experiment], f"tags.`{key}` = '{value}'", max_results=1)
        if found:
            return found[0].info.run_id
        run = self._client.create_run(experiment, entry["time"], tags | {key: value}, run_name=entry["name"])
        return run.info.run_id

    def _metrics(self, *entries: Entry) -> None:
        points = [
            _entity("Metric", name, value, entry["time"], entry["step"])
            for entry in entries
            for name, value in entry["values"].items()
        ]
        for first in range(0, len(points), 1000):
            self._client.log_batch(self._progress["run"], metrics=points[first : first + 1000])

    def _artifact(self, entry: Entry) -> None:
        path = self._journal.folder / entry["file"]
        if path.is_dir():
            self._client.log_artifacts(self._progress["run"], str(path), path.name)
        else:
            self._client.log_artifact(self._progress["run"], str(path))

    def _dataset(self, entry: Entry) -> None:
        profile = f'{{"num_rows": {entry["rows"]}}}'
        data = _entity("Dataset", entry["name"], entry["fingerprint"][:36], "local", entry["name"], profile=profile)
        tag = _entity("InputTag", "mlflow.data.context", "train and validation")
        self._client.log_inputs(self._progress["run"], [_entity("DatasetInput", data, [tag])])

    def _child(self, entry: Entry) -> None:
        tags = {"mlflow.parentRunId": self._progress["run"]}
        key = f"{self._journal.id}:{entry['name']}"
        run = self._run(self._progress["experiment"], "makd.child", key, entry, tags)
        self._params(run, entry["params"])
        points = [_entity("Metric", name, value, entry["time"], 0) for name, value in entry["metrics"].items()]
        self._client.log_batch(run, metrics=points)
        self._client.set_terminated(run, "FINISHED", entry["time"])

    def _model(self, entry: Entry) -> None:
        from stages.tracking.registry import Version, register

        made = Version(
            run=self._progress["run"],
            experiment=self._progress["experiment"],
            folder=self._journal.folder / entry["folder"],
            name=entry["name"],
            tags=entry["tags"],
            pair=entry["pair"],
            key=f"{self._journal.id}:{entry['time']}",
        )
        register(self._client, made)

    def _tag_model(self, entry: Entry) -> None:
        version = self._client.get_model_version_by_alias(entry["name"], "challenger").version
        for key, value in entry["tags"].items():
            self._client.set_model_version_tag(entry["name"], version, key, value)

    def _end(self, entry: Entry) -> None:
        if entry["error"]:
            self._client.set_tag(self._progress["run"], "makd.error", entry["error"])
        self._client.set_terminated(self._progress["run"], entry["status"], entry["time"])
        if self._progress["parent"]:
            self._settle(self._progress["parent"])

    def _settle(self, parent: str) -> None:
        """The pipeline run ends with its last stage, as badly as the worst of them."""
        children = self._client.search_runs(
            [self._progress["experiment"]], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=1000
        )
        found = {child.info.status for child in children}
        worst = next(status for status in ("RUNNING", "FAILED", "KILLED", "FINISHED") if status in found)
        if worst != "RUNNING":
            last = max(child.info.end_time or 0 for child in children)
            self._client.set_terminated(parent, worst, last)


def _entity(name: str, *values: Any, **named: Any) -> Any:
    import mlflow.entities

    return getattr(mlflow.entities, name)(*values, **named)
