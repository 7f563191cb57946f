"""DVC's graph, read from DVC, and one of its stages run as a process that can be stopped whole."""

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

_running: dict[subprocess.Popen[bytes], str] = {}
_stopped: set[str] = set()
"""Pipeline runs that were interrupted: none of their stages is to start any more."""


class StageFailed(RuntimeError):
    """A DVC stage ended with an error; `heals` says whether to try again."""

    def __init__(self, message: str, *, heals: bool = False) -> None:
        super().__init__(message)
        self.heals = heals


def graph(
    stages: list[str] | None = None, only_task: str | None = None, recipes: list[str] | None = None
) -> dict[str, list[str]]:
    """Stages in an order that works, each with the stages that it needs.

    Args:
        stages: names of dvc.yaml (`distill`) or single stages (`distill@sst2`), with all they need.
        only_task: leaves out the stages of other tasks.
        recipes: leaves out the baselines, and their races, of other recipes.

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
    if recipes is not None:
        wanted -= _other_recipes(wanted, recipes)
    order = networkx.lexicographical_topological_sort(found.subgraph(wanted).reverse())
    return {node: sorted(set(found.successors(node)) & wanted) for node in order}


def make_folders(stage: str) -> None:
    """Makes the folders that this stage collects others' outputs from: DVC runs none that lacks a dependency."""
    from dvc.repo import Repo

    with Repo(".") as repo:
        outs = [Path(out.fs_path) for each in repo.index.stages for out in each.outs]
        folders = [Path(dep.fs_path) for each in repo.index.stages if each.addressing == stage for dep in each.deps]
    for folder in folders:
        if any(folder in out.parents for out in outs):
            folder.mkdir(parents=True, exist_ok=True)


def run(
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
    process = _start(stage, folder, force, pipeline, threads)
    with _watched(process, pipeline, log) as lines:
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise StageFailed(f"{stage} ran longer than `timeout` ({timeout:g} s) allows and was stopped") from None
    if process.returncode:
        raise _failure(stage, process.returncode, lines, pipeline)
    return not any(UNCHANGED.search(line) for line in lines)


def stop(pipeline: str) -> None:
    """Stops every stage of a pipeline run in this process, and starts no other; for a flow that is interrupted."""
    _stopped.add(pipeline)
    for process, name in list(_running.items()):
        if name == pipeline:
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


def _start(stage: str, folder: str, force: bool, pipeline: str, threads: str | None) -> subprocess.Popen[bytes]:
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
def _watched(process: subprocess.Popen[bytes], pipeline: str, log: Callable[[str], None]) -> Iterator[list[str]]:
    """The lines that it has written so far; its whole group ends with the block, or with this process."""
    guard, lines = _guard(process), []
    reader = threading.Thread(target=_read, args=(process.stdout, lines, log), daemon=True)
    reader.start()
    _running[process] = pipeline
    if pipeline in _stopped:  # just now
        _stop(process)
    try:
        yield lines
    finally:
        _stop(process)
        _running.pop(process)
        guard.kill()
        guard.communicate()
        reader.join(5)


def _failure(stage: str, code: int, lines: list[str], pipeline: str) -> StageFailed:
    """What is told of a stage that ended with an error: its last lines, and whether to try again."""
    killed = code == -signal.SIGKILL or HEALS.search("\n".join(lines))
    tail = "\n".join(lines[-20:])
    return StageFailed(f"{stage} failed (exit code {code}):\n{tail}", heals=bool(killed) and pipeline not in _stopped)


def _read(stream: IO[bytes], lines: list[str], log: Callable[[str], None]) -> None:
    for line in lines_of(stream):
        lines.append(line)
        log(line)


def _plain(piece: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece.decode("utf8", errors="replace")).strip()


def _guard(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Ends the process's group when this process dies, however it dies: its end of the pipe is closed then."""
    command = ["sh", "-c", f"cat > /dev/null; kill -- -{process.pid}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


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


def _other_recipes(nodes: set[str], recipes: list[str]) -> set[str]:
    """Rivals of none of the recipes: `baseline@<task>-<recipe>`, or with `-<seed>` behind; `race@<task>-<recipe>`."""
    baselines = {node for node in nodes if node.split("@")[0] in ("baseline", "race")}
    kept = set()
    for recipe in recipes:
        found = {node for node in baselines if re.fullmatch(rf".+-{re.escape(recipe)}(-\d+)?", node)}
        if not found:
            raise ValueError(f"--recipes {recipe}: the stages are {', '.join(sorted(baselines))}")
        kept |= found
    return baselines - kept


def _of_task(node: str, task: str) -> bool:
    axes = node.split("@", 1)[1]
    return axes == task or axes.startswith(f"{task}-")
