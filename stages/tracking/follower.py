"""The process beside a stage that sends its journal, so that the stage itself never waits for MLflow.

The stage starts it (`start`), it follows the journal to its end (`follow`): also when the stage is killed,
which it then says. Before that it sends what earlier stages left behind. A server that does not answer is
tried again every 20 s; what is left at the end stays on disk.
"""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from stages.tracking.delivery import Delivery
from stages.tracking.journal import Journal, left_over

DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "OMP_NUM_THREADS": "1",
}
"""MLflow's own defaults try for minutes; the journal makes that needless."""
PERIOD, PAUSE, WAIT = 0.5, 20.0, 5.0
"""Seconds between two looks at the journal, between two tries when offline, that a stage waits at its end."""


def start(journal: Journal) -> subprocess.Popen[bytes]:
    """Starts the follower in a session of its own: what interrupts the stage leaves its record alone."""
    command = [sys.executable, "-m", "stages.tracking", "--follow", str(journal.path)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def wait(follower: subprocess.Popen[bytes]) -> None:
    """Waits until all is sent or given up, but not for long: the follower ends by itself."""
    with suppress(subprocess.TimeoutExpired):
        follower.wait(WAIT)


def follow(journal: Journal, root: Path) -> None:
    """Sends the journal while it grows, until its end is sent or the server is given up."""
    prepare()
    from stages.tracking.monitor import Monitor

    monitor, delivery, failed = Monitor(journal), Delivery(journal, root), 0.0
    if not journal.claim():
        return
    if journal.unsent()[0][0]["monitor"]:
        monitor.start()
    try:
        while True:
            ended = journal.ended() or not journal.alive()
            if ended:
                monitor.finish()
                journal.mend()
            if time.monotonic() - failed > PAUSE or not failed:
                failed = _try(delivery, root, was_offline=bool(failed))
            if ended:
                break
            time.sleep(PERIOD)
    finally:
        journal.close()
    if journal.path.exists():
        say(f"{journal.path} is kept; the next stage sends it, or `python -m stages.tracking`")


def prepare() -> None:
    """Short timeouts, no telemetry, no chatter."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  (sets its own logging up)

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def send_left_over(root: Path) -> dict[str, bool]:
    """Sends the journals of stages that have ended or died, oldest first; id -> whether it is all sent.

    Raises:
        Exception: the server does not answer; what was not sent stays.
    """
    sent = {}
    for journal in left_over(root / ".makd" / "journal"):
        if journal.alive() or not journal.claim():
            continue
        try:
            journal.mend()
            sent[journal.id] = Delivery(journal, root).send()
        finally:
            journal.close()
    return sent


def say(message: str) -> None:
    print(f"tracking: {message}", file=sys.stderr, flush=True)


def _try(delivery: Delivery, root: Path, was_offline: bool) -> float:
    """0 when all was sent, else the time of the failure."""
    try:
        send_left_over(root)
        delivery.send()
    except Exception as error:
        if not was_offline:
            reason = str(error).splitlines()[0][:200]
            say(f"{delivery.uri} does not answer ({reason}); the stage goes on, its record is kept on disk")
        return time.monotonic()
    if was_offline:
        say(f"{delivery.uri} is back")
    return 0.0
