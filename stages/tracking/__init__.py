"""What a stage did, remembered in MLflow, without ever depending on it.

    with tracking.run("distill", "sst2", "", params) as run:
        run.metrics({"loss": 0.3}, step=10)
        run.artifact(Path("history.csv"))

The stage only appends to a journal on disk (`.makd/journal/`, journal.py). A process beside it (follower.py)
sends the journal to MLflow (delivery.py). A server that is down, goes away or comes back costs the stage
nothing: there is one warning, and what could not be sent is sent by the next stage or by
`python -m stages.tracking`. `MAKD_TRACKING=off` in the environment tracks nothing.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.settings import Params
from stages.tracking import context, follower
from stages.tracking.journal import Journal


class Run:
    """One stage's tracked run; without a journal (ranks beside the first) it does nothing."""

    def __init__(self, journal: Journal | None = None, pair: bool = False) -> None:
        self._journal = journal
        self._pair = pair

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Numbers at a step; without a step they are the stage's results."""
        numbers = {name: float(value) for name, value in values.items()}
        self._write("metrics", values=numbers, step=step or 0)

    def artifact(self, path: Path) -> None:
        """A file or folder, as it is now: it may be moved, replaced or deleted afterwards."""
        if self._journal:
            self._write("artifact", file=self._journal.keep(path))

    def dataset(self, name: str, fingerprint: str, rows: int) -> None:
        """The data that the stage worked on."""
        self._write("dataset", name=name, fingerprint=fingerprint, rows=rows)

    def child(self, name: str, params: dict[str, object], metrics: dict[str, float]) -> None:
        """A finished run below this one: something that the stage compares, with settings and figures of its own."""
        numbers = {key: float(value) for key, value in metrics.items()}
        self._write("child", name=name, params=context.flat(params), metrics=numbers)

    def model(self, folder: Path, name: str, tags: dict[str, object] | None = None) -> None:
        """The ONNX folder as a model that takes text; a new version of `name`, alias `challenger`."""
        if self._journal:
            kept = self._journal.keep(folder)
            self._write("model", folder=kept, name=name, tags=_strings(tags or {}), pair=self._pair)

    def tag_model(self, name: str, tags: dict[str, object]) -> None:
        """Figures found later (latency), put on the version of `name` that is `challenger`."""
        self._write("tag_model", name=name, tags=_strings(tags))

    def _write(self, kind: str, **fields: object) -> None:
        if self._journal:
            self._journal.append(kind, **fields)


@contextmanager
def run(verb: str, task: str, recipe: str, params: Params, seed: str = "", corpus: str = "") -> Iterator[Run]:
    """Tracks what happens inside: FINISHED, FAILED (with the exception's text) or KILLED at the end.

    Args:
        verb: the stage; with task or corpus, recipe and seed it names the run (`baseline@sst2-svd-42`), as DVC does.
        task, recipe, seed, corpus: empty where the stage has none.
        params: all of params.yaml; the verb's blocks are logged.
    """
    if not context.is_main() or os.environ.get("MAKD_TRACKING") == "off":
        yield Run()
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped stage still says that it was
    name = "@".join(filter(None, (verb, "-".join(filter(None, (task, corpus, recipe, seed))))))
    journal = Journal.create(context.root() / ".makd" / "journal", name)
    journal.append(
        "start",
        name=name,
        experiment=params.tracking.experiment,
        params=context.parameters(verb, task, recipe, params, corpus),
        tags=context.tags(verb) | {"makd.stage": name},
        pipeline=context.pipeline(),
        process=context.process(),
        monitor=params.tracking.system_metrics,
    )
    beside, status, error = follower.start(journal), "FINISHED", ""
    try:
        yield Run(journal, pair=bool(task) and len(params.task(task).text) == 2)
    except BaseException as exception:
        status, error = _verdict(exception)
        raise
    finally:
        journal.append("end", status=status, error=error)
        follower.wait(beside)


def _verdict(exception: BaseException) -> tuple[str, str]:
    if isinstance(exception, SystemExit) and not exception.code:
        return "FINISHED", ""
    if isinstance(exception, KeyboardInterrupt):
        return "KILLED", "interrupted"
    return "FAILED", f"{type(exception).__name__}: {exception}"[:5000]


def _strings(tags: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in tags.items()}
