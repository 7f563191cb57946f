"""One DVC stage run as a process that can be stopped whole."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

RETRIABLE = re.compile(
    r"is busy, it is being blocked|Unable to acquire lock|database is locked"  # another DVC process
    r"|Connection (reset|refused|aborted)|ConnectionError|ReadTimeout|Temporary failure in name resolution"
    r"|Max retries exceeded|\b50[234] (Server Error|Bad Gateway|Service Unavailable|Gateway)"  # the network
    r"|exited with (-9|137)\b",  # killed, as by the kernel when memory is short: it may be free again
    re.IGNORECASE,
)
"""Output of a failed stage that another try may heal; anything else fails the same way again."""

UNCHANGED = re.compile(r"didn't change, skipping|is cached - skipping run")
PROGRESS_PERIOD = 10.0
"""Seconds between two lines of a progress bar that are passed on."""
GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""

_running: dict[subprocess.Popen[bytes], str] = {}
_stopped: set[str] = set()
"""Pipeline runs that were interrupted: none of their stages is to start any more."""


class StageFailed(RuntimeError):
    """A DVC stage ended with an error; `retriable` says whether to try again."""

    def __init__(self, message: str, *, retriable: bool = False) -> None:
        super().__init__(message)
        self.retriable = retriable


def run_dvc_stage(
    stage: str,
    *,
    folder: str,
    force: bool,
    timeout: float,
    pipeline: str,
    threads: str | None,
    log: Callable[[str], None],
) -> bool:
    """Runs one stage by `dvc repro --single-item`; False when DVC found it unchanged.

    Where another DVC process holds the repository's lock, it waits: giving up after the stage's work is done would
    lose that work.

    Args:
        folder: the checkout.
        timeout: seconds until the stage's whole process group is stopped.
        pipeline: name of the pipeline run, under which MLflow groups the stages.
        threads: for OMP_NUM_THREADS; None: as the environment says.
        log: gets the output line by line.

    Raises:
        StageFailed: it failed or ran out of time; the message ends with its last lines.
    """
    if pipeline in _stopped:
        raise StageFailed(f"{stage} was not started: {pipeline} is interrupted")
    process = _start_dvc(stage, folder, force, pipeline, threads)
    with _watch(process, pipeline, log) as lines:
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise StageFailed(f"{stage} ran longer than `timeout` ({timeout:g} s) allows and was stopped") from None
    if process.returncode:
        raise _describe_failure(stage, process.returncode, lines, pipeline)
    return not any(UNCHANGED.search(line) for line in lines)


def stop_stages(pipeline: str) -> None:
    """Stops every stage of a pipeline run in this process, and starts no other; for a flow that is interrupted."""
    _stopped.add(pipeline)
    for process, name in list(_running.items()):
        if name == pipeline:
            _stop_group(process)


def read_lines(stream: IO[bytes], clock: Callable[[], float] = time.monotonic) -> Iterator[str]:
    """Lines of a process's output; of a progress bar (lines that end in a carriage return) one each 10 s."""
    buffer, shown = b"", -PROGRESS_PERIOD
    while chunk := os.read(stream.fileno(), 65536):
        *pieces, buffer = re.split(rb"(?<=[\n\r])", buffer + chunk)
        for piece in pieces:
            if piece.endswith(b"\r") and clock() - shown < PROGRESS_PERIOD:
                continue
            if piece.endswith(b"\r"):
                shown = clock()
            if text := _strip_terminal_codes(piece):
                yield text
    if text := _strip_terminal_codes(buffer):
        yield text


def _start_dvc(stage: str, folder: str, force: bool, pipeline: str, threads: str | None) -> subprocess.Popen[bytes]:
    """DVC, the leader of a process group of its own."""
    dvc = [sys.executable, "-m", "dvc", "--wait-for-lock"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {"PATH": path, "MAKD_PIPELINE": pipeline, "PYTHONUNBUFFERED": "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = threads
    return subprocess.Popen(
        [*dvc, "repro", "--single-item", *(["--force"] if force else []), stage],
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@contextmanager
def _watch(process: subprocess.Popen[bytes], pipeline: str, log: Callable[[str], None]) -> Iterator[list[str]]:
    """The lines that it has written so far; its whole group ends with the block, or with this process."""
    guard, lines = _start_guard(process), []
    reader = threading.Thread(target=_pass_on, args=(process.stdout, lines, log), daemon=True)
    reader.start()
    _running[process] = pipeline
    if pipeline in _stopped:  # just now
        _stop_group(process)
    try:
        yield lines
    finally:
        _stop_group(process)
        _running.pop(process)
        guard.kill()
        guard.communicate()
        reader.join(5)


def _describe_failure(stage: str, code: int, lines: list[str], pipeline: str) -> StageFailed:
    """The error of a stage: its last lines, and whether to try again."""
    output = "\n".join(lines)
    retriable = pipeline not in _stopped and (code == -signal.SIGKILL or RETRIABLE.search(output) is not None)
    tail = "\n".join(lines[-20:])
    return StageFailed(f"{stage} failed (exit code {code}):\n{tail}", retriable=retriable)


def _pass_on(stream: IO[bytes], lines: list[str], log: Callable[[str], None]) -> None:
    for line in read_lines(stream):
        lines.append(line)
        log(line)


def _strip_terminal_codes(piece: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece.decode("utf8", errors="replace")).strip()


def _start_guard(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Ends the process's group when this process dies, however it dies: its end of the pipe is closed then."""
    command = ["sh", "-c", f"cat > /dev/null; kill -- -{process.pid}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of the process's group: SIGTERM, and SIGKILL after the grace."""
    if not _signal_group(process, signal.SIGTERM):
        return
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        process.poll()
        if not _signal_group(process, 0):
            return
        time.sleep(0.1)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
