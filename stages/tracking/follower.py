"""The process beside a stage that sends its journal, so that the stage itself never waits for MLflow.

The stage starts it, it follows the journal to its end: also when the stage is killed, which it then records. Before
that it sends what earlier stages left behind. A server that does not answer is tried again every 20 s; what is left at
the end stays on disk.
"""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stages.tracking.journal import Journal, list_journals

if TYPE_CHECKING:
    from stages.tracking.delivery import Delivery

DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "OMP_NUM_THREADS": "1",
}
"""MLflow's own defaults try for minutes; the journal makes that needless."""
PERIOD, PAUSE = 0.5, 20.0
"""Seconds between two looks at the journal, between two tries when offline."""


def follow_journal(journal: Journal, checkout: Path) -> None:
    """Sends the journal while it grows, until its end is sent or the server is given up."""
    configure_mlflow()
    from stages.tracking.delivery import Delivery
    from stages.tracking.monitor import Monitor

    monitor, delivery, failed = Monitor(journal), Delivery(journal, checkout), 0.0
    if not journal.claim():
        return
    if journal.read_unsent()[0][0]["monitor"]:
        monitor.start()
    try:
        while True:
            ended = journal.has_ended() or not journal.is_writer_alive()
            if ended:
                monitor.finish()
                journal.end_if_dead()
            if time.monotonic() - failed > PAUSE or not failed:
                failed = _try_to_send(delivery, checkout, was_offline=bool(failed))
            if ended:
                break
            time.sleep(PERIOD)
    finally:
        journal.release()
    if journal.path.exists():
        _warn(f"{journal.path} is kept; the next stage sends it, or `python -m stages.tracking`")


def configure_mlflow() -> None:
    """Short timeouts, no telemetry, no chatter; before MLflow is used."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  (sets its own logging up)

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def send_ended_journals(checkout: Path) -> dict[str, bool]:
    """Sends the journals of stages that have ended or died, oldest first; id -> whether it is all sent.

    Raises:
        Exception: the server does not answer; what was not sent stays.
    """
    from stages.tracking.delivery import Delivery

    sent = {}
    for journal in list_journals(checkout / ".makd" / "journal"):
        if journal.is_writer_alive() or not journal.claim():
            continue
        try:
            journal.end_if_dead()
            sent[journal.id] = Delivery(journal, checkout).send()
        finally:
            journal.release()
    return sent


def _try_to_send(delivery: "Delivery", checkout: Path, was_offline: bool) -> float:
    """0 when all was sent, else the time of the failure."""
    try:
        send_ended_journals(checkout)
        delivery.send()
    except Exception as error:
        if not was_offline:
            reason = str(error).splitlines()[0][:200]
            _warn(f"{delivery.uri} does not answer ({reason}); the stage goes on, its record is kept on disk")
        return time.monotonic()
    if was_offline:
        _warn(f"{delivery.uri} is back")
    return 0.0


def _warn(message: str) -> None:
    print(f"tracking: {message}", file=sys.stderr, flush=True)
