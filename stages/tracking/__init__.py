"""What a stage did, tracked in MLflow, without ever depending on it.

    with track_run("distill", params, task="sst2") as run:
        run.log_metrics({"loss": 0.3}, step=10)
        run.log_artifact(Path("history.csv"))

The stage only appends to a journal on disk (`.makd/journal/`, journal.py). A process beside it (follower.py)
sends the journal to MLflow (delivery.py). A server that is down, goes away or comes back costs the stage
nothing: there is one warning, and what could not be sent is sent by the next stage or by
`python -m stages.tracking`. `MAKD_TRACKING=off` in the environment tracks nothing.

All stages of one `dvc repro` or one Prefect flow are below one pipeline run (pipeline_run.py), which has the settings
that were changed and the headline metrics of each task.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stages.settings import Params
from stages.tracking import context
from stages.tracking.journal import Journal
from stages.tracking.parameters import flatten, list_changed_parameters, list_stage_parameters, name_pipeline

WAIT = 5.0
"""Seconds that a stage waits at its end for what is not sent yet."""


class Run:
    """One stage's tracked run; without a journal (ranks beside the first) it does nothing."""

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers at a step; without a step they are the stage's results."""
        self._append("metrics", values={name: float(value) for name, value in values.items()}, step=step or 0)

    def log_headline(self, values: Mapping[str, float | None]) -> None:
        """The few results that pipelines are compared by, on the pipeline's run."""
        numbers = {name: float(value) for name, value in values.items() if value is not None}
        self._append("headline", values=numbers)

    def describe_pipeline(self, text: str) -> None:
        """Markdown for the pipeline's run."""
        self._append("description", text=text)

    def log_artifact(self, path: Path) -> None:
        """A file or folder, as it is now: it may be moved, replaced or deleted afterwards."""
        if self._journal:
            self._append("artifact", file=self._journal.keep_file(path))

    def log_dataset(self, name: str, fingerprint: str, rows: int) -> None:
        """The data that the stage worked on."""
        self._append("dataset", name=name, fingerprint=fingerprint, rows=rows)

    def log_child_run(self, name: str, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """A finished run below this one: a model that the stage compares, with settings and metrics of its own."""
        numbers = {key: float(value) for key, value in metrics.items()}
        self._append("child", name=name, params=flatten(dict(params)), metrics=numbers)

    def log_model(self, folder: Path, name: str, tags: Mapping[str, Any] | None = None) -> None:
        """The ONNX folder as a model that takes text; a new version of `name`, alias `challenger`."""
        if self._journal:
            self._append("model", folder=self._journal.keep_file(folder), name=name, tags=_to_strings(tags or {}))

    def tag_challenger(self, name: str, tags: Mapping[str, Any]) -> None:
        """Results that come later (latency), put on the version of `name` that is `challenger`."""
        self._append("challenger_tags", name=name, tags=_to_strings(tags))

    def _append(self, kind: str, **fields: object) -> None:
        if self._journal:
            self._journal.append(kind, **fields)


@contextmanager
def track_run(
    verb: str, params: Params, *, task: str = "", corpus: str = "", recipe: str = "", seed: str = ""
) -> Iterator[Run]:
    """Tracks what happens inside: FINISHED, FAILED (with the exception's text) or KILLED at the end.

    Args:
        verb: the stage; with task or corpus, recipe and seed it names the run (`baseline@sst2-svd-42`), as DVC does.
        params: all of params.yaml; the verb's blocks are logged.
        task, corpus, recipe, seed: empty where the stage has none.
    """
    if not context.is_main() or os.environ.get("MAKD_TRACKING") == "off":
        yield Run()
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped stage still logs that it was stopped
    name = "@".join(filter(None, (verb, "-".join(filter(None, (task, corpus, recipe, seed))))))
    journal = Journal.create(context.find_checkout() / ".makd" / "journal", name)
    journal.append(
        "start",
        name=name,
        experiment=params.tracking.experiment,
        params=list_stage_parameters(verb, task, recipe, params, corpus),
        tags=context.collect_tags(verb) | {"makd.stage": name},
        pipeline=_describe_pipeline(params, seed),
        process=context.identify_process(),
        monitor=params.tracking.system_metrics,
    )
    follower, status, error = _start_follower(journal), "FINISHED", ""
    try:
        yield Run(journal)
    except BaseException as exception:
        status, error = _classify(exception)
        raise
    finally:
        journal.append("end", status=status, error=error)
        with suppress(subprocess.TimeoutExpired):  # the follower ends by itself
            follower.wait(WAIT)


def _describe_pipeline(params: Params, seed: str) -> dict[str, Any] | None:
    """What a stage says of its pipeline; the seed of a stage that has one of its own is not the pipeline's."""
    if key := context.find_pipeline():
        changed = list_changed_parameters(params)
        shown = {name: value for name, value in changed.items() if not seed or name != "seed"}
        return {"key": key, "name": name_pipeline(params), "params": shown}
    return None


def _start_follower(journal: Journal) -> "subprocess.Popen[bytes]":
    """Starts the follower in a session of its own: what interrupts the stage leaves its record alone."""
    command = [sys.executable, "-m", "stages.tracking", "--follow", str(journal.path)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def _classify(exception: BaseException) -> tuple[str, str]:
    """Status and text of a run that ended with an exception."""
    if isinstance(exception, SystemExit) and not exception.code:
        return "FINISHED", ""
    if isinstance(exception, KeyboardInterrupt):
        return "KILLED", "interrupted"
    return "FAILED", f"{type(exception).__name__}: {exception}"[:5000]


def _to_strings(tags: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in tags.items()}
