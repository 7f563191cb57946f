"""DVC's graph, read from DVC, and one of its stages run as a process that can be stopped whole."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

HEALS = re.compile(
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

_running: set[subprocess.Popen[bytes]] = set()


class StageFailed(RuntimeError):
    """A DVC stage ended with an error; `heals` says whether to try again."""

    def __init__(self, message: str, *, heals: bool = False) -> None:
        super().__init__(message)
        self.heals = heals


def graph(stages: list[str] | None = None, only_task: str | None = None) -> dict[str, list[str]]:
    """Stages in an order that works, each with the stages that it needs.

    Args:
        stages: names of dvc.yaml (`distill`) or single stages (`distill@sst2`), with all they need.
        only_task: leaves out the stages of other tasks.

    Raises:
        ValueError: a name that selects nothing.
    """
    import networkx
    from dvc.repo import Repo

    with Repo(".") as repo:
        found = networkx.relabel_nodes(repo.index.graph, lambda stage: stage.addressing)
    wanted = set(found) if stages is None else set()
    for name in stages or []:
        chosen = {node for node in found if name in (node, node.split("@")[0])}
        if not chosen:
            raise ValueError(f"--stages {name}: the stages are {', '.join(sorted(found))}")
        wanted |= chosen.union(*(networkx.descendants(found, node) for node in chosen))
    if only_task:
        wanted = {node for node in wanted if "@" not in node or _of_task(node, only_task)}
        if not any("@" in node for node in wanted):
            raise ValueError(f"--only-task {only_task}: no stage is of this task; see `tasks` in params.yaml")
    order = networkx.lexicographical_topological_sort(found.subgraph(wanted).reverse())
    return {node: sorted(set(found.successors(node)) & wanted) for node in order}


def run(stage: str, *, force: bool, timeout: float, pipeline: str, log: Callable[[str], None]) -> bool:
    """Runs one stage by `dvc repro --single-item`; False when DVC found it unchanged.

    Args:
        timeout: seconds until the stage's whole process group is stopped.
        pipeline: name of the pipeline run, under which MLflow groups the stages.
        log: gets the output line by line.

    Raises:
        StageFailed: it failed or ran out of time; the message ends with its last lines.
    """
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", *(["--force"] if force else []), stage]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    process = subprocess.Popen(
        command,
        env=os.environ | {"PATH": path, "MAKD_PIPELINE": pipeline, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=_read, args=(process.stdout, lines, log), daemon=True)
    reader.start()
    _running.add(process)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise StageFailed(f"{stage} ran longer than `timeout` ({timeout:g} s) allows and was stopped") from None
    finally:
        _stop(process)
        _running.discard(process)
        reader.join(5)
    if process.returncode:
        output = "\n".join(lines)
        tail = "\n".join(lines[-20:])
        heals = bool(HEALS.search(output)) or process.returncode == -signal.SIGKILL
        raise StageFailed(f"{stage} failed (exit code {process.returncode}):\n{tail}", heals=heals)
    return not any(UNCHANGED.search(line) for line in lines)


def stop_all() -> None:
    """Stops every stage at work; for a flow that is interrupted."""
    for process in list(_running):
        _stop(process)


def lines_of(stream: IO[bytes], clock: Callable[[], float] = time.monotonic) -> Iterator[str]:
    """Lines of a process's output; of a progress bar (lines that end in a carriage return) one each 10 s."""
    buffer, shown = b"", -PROGRESS_PERIOD
    while chunk := os.read(stream.fileno(), 65536):
        *pieces, buffer = re.split(rb"(?<=[\n\r])", buffer + chunk)
        for piece in pieces:
            if piece.endswith(b"\r") and clock() - shown < PROGRESS_PERIOD:
                continue
            if piece.endswith(b"\r"):
                shown = clock()
            if text := _plain(piece):
                yield text
    if text := _plain(buffer):
        yield text


def _read(stream: IO[bytes], lines: list[str], log: Callable[[str], None]) -> None:
    for line in lines_of(stream):
        lines.append(line)
        log(line)


def _plain(piece: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece.decode("utf8", errors="replace")).strip()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of the process's group: SIGTERM, and SIGKILL after the grace."""
    if not _signal(process, signal.SIGTERM):
        return
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        process.poll()
        if not _signal(process, 0):
            return
        time.sleep(0.1)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _of_task(node: str, task: str) -> bool:
    axes = node.split("@", 1)[1]
    return axes == task or axes.startswith(f"{task}-")
