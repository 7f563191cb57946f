"""One DVC stage as a process: it waits for DVC's lock, what another try may mend, what is passed on of its output."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from zc.lockfile import LockFile

from pipelines.stage_process import RETRIABLE, StageFailed, read_lines, run_dvc_stage, stop_stages
from tests.makers.dvc_projects import TWO_STAGES, make_project
from tests.makers.processes import PATIENCE

OPTIONS: dict[str, Any] = {"force": False, "timeout": 2 * PATIENCE, "threads": None, "log": print}
FAILING = """
stages:
  broken:
    cmd: python -c "import sys; print('weights went to infinity'); sys.exit(3)"
"""


def test_a_stage_waits_while_another_dvc_process_holds_the_lock(tmp_path: Path) -> None:
    folder = make_project(tmp_path, TWO_STAGES)
    held = LockFile(str(folder / ".dvc" / "tmp" / "lock"))
    threading.Timer(6, held.close).start()  # DVC itself gives up after 3 s
    assert run_dvc_stage("first@a", folder=str(folder), pipeline="lock", **OPTIONS) is True
    assert (folder / "a.txt").read_text() == "made"
    assert run_dvc_stage("first@a", folder=str(folder), pipeline="lock", **OPTIONS) is False, "unchanged"


def test_a_failure_ends_with_the_last_lines_and_is_not_retriable(tmp_path: Path) -> None:
    folder = make_project(tmp_path, FAILING)
    with pytest.raises(StageFailed, match=r"(?s)broken failed \(exit code \d+\):.*weights went to infinity") as failure:
        run_dvc_stage("broken", folder=str(folder), pipeline="failure", **OPTIONS)
    assert not failure.value.retriable


def test_an_interrupted_pipeline_starts_no_further_stage(tmp_path: Path) -> None:
    stop_stages("interrupted")
    with pytest.raises(StageFailed, match="first@a was not started: interrupted is interrupted") as failure:
        run_dvc_stage("first@a", folder=str(tmp_path), pipeline="interrupted", **OPTIONS)
    assert not failure.value.retriable


@pytest.mark.parametrize(
    ("output", "retriable"),
    [
        ("ERROR: 'a.txt' is busy, it is being blocked by: (PID 4690)", True),
        ("ERROR: Unable to acquire lock. Most likely another DVC process is running", True),
        ("requests.exceptions.ConnectionError: [Errno -3] Temporary failure in name resolution", True),
        ("ERROR: failed to reproduce 'x': failed to run: python -m x, exited with -9", True),
        ("ERROR: failed to reproduce 'x': failed to run: python -m x, exited with 1", False),
        ("ERROR: failed to reproduce 'x': failed to run: python -m x, exited with 90", False),
        ("torch.OutOfMemoryError: CUDA out of memory", False),
        ("distill: params.yaml: factorize.budget = 3: Input should be less than 1", False),
    ],
)
def test_only_what_another_try_may_mend_is_retriable(output: str, retriable: bool) -> None:
    assert bool(RETRIABLE.search(output)) is retriable


def test_a_progress_bar_is_thinned_out_and_lines_are_whole() -> None:
    read, write = os.pipe()
    bar = b"".join(b"\r%3d%%" % share for share in range(100))
    os.write(write, b"one\ntwo \xc3\xa9\n" + bar + b"\r100%\n\x1b[31mred\x1b[0m\nno end")
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        lines = list(read_lines(stream, clock=lambda: 0.0))
    assert [line for line in lines if "%" not in line] == ["one", "two é", "red", "no end"]
    assert len([line for line in lines if "%" in line]) <= 2 and "100%" in lines
