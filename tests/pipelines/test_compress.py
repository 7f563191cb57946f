"""The flow `compress` against Prefect's real server, with real DVC projects of trivial stages."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.makers.dvc_projects import TWO_STAGES, make_project, run_python
from tests.makers.processes import PATIENCE, wait_for

FAILING = """
stages:
  broken:
    cmd: python -c "import sys; print('weights went to infinity'); sys.exit(3)"
  after:
    cmd: python -c "print('must not be seen')"
    deps:
    - nothing.txt
    outs:
    - after.txt
  makes:
    cmd: python -c "import sys; sys.exit(4)"
    outs:
    - nothing.txt
"""

SLEEPING = """
stages:
  endless:
    cmd: >-
      python -c "import os, subprocess, sys, time;
      child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)']);
      open('pids', 'w').write(f'{os.getpid()} {child.pid}'); time.sleep(3600)"
"""


def read_pids(folder: Path) -> list[int]:
    """The processes of the sleeping stage, none before it has written both."""
    file = folder / "pids"
    pids = file.read_text().split() if file.exists() else []
    return [int(pid) for pid in pids] if len(pids) == 2 else []


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_runs_the_graph_then_skips_what_is_unchanged(tmp_path: Path, server: dict[str, str]) -> None:
    folder = make_project(tmp_path, TWO_STAGES)
    first = run_python("-m", "pipelines.compress", cwd=folder, **server)
    assert first.returncode == 0, first.stderr
    assert "Task run 'second' - printed by second" in first.stderr + first.stdout
    assert (folder / "all.txt").read_text() == "made"
    second = run_python("-m", "pipelines.compress", cwd=folder, **server)
    assert second.returncode == 0 and (second.stderr + second.stdout).count("state Cached") == 3


def test_a_failing_stage_fails_the_flow_and_its_output_is_in_the_log(tmp_path: Path, server: dict[str, str]) -> None:
    done = run_python("-m", "pipelines.compress", cwd=make_project(tmp_path, FAILING), **server)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Task run 'broken' - weights went to infinity" in output
    assert "Retry" not in output and "AwaitingRetry" not in output
    assert "must not be seen" not in output.replace("print('must not be seen')", "")
    assert all(part in done.stderr.splitlines()[-1] for part in ("broken: Failed", "makes: Failed", "after: NotReady"))


def test_a_timeout_stops_the_whole_process_group(tmp_path: Path, server: dict[str, str]) -> None:
    folder = make_project(tmp_path, SLEEPING)
    for seconds in (8, 60, 240):  # a busy machine may need longer to start the stage at all
        done = run_python("-m", "pipelines.compress", "--timeout", seconds, cwd=folder, **server)
        assert done.returncode == 1
        assert f"ran longer than `timeout` ({seconds} s)" in done.stdout + done.stderr
        if pids := read_pids(folder):
            break
    assert pids and all(has_ended(pid) for pid in pids)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "end"), [("threads", signal.SIGTERM), ("threads", signal.SIGKILL), ("dask", signal.SIGTERM)]
)
def test_an_interrupted_flow_leaves_no_stage_behind(
    tmp_path: Path, server: dict[str, str], runner: str, end: signal.Signals
) -> None:
    if runner == "dask":
        pytest.importorskip("prefect_dask")
    folder = make_project(tmp_path, SLEEPING)
    flow = subprocess.Popen(
        [sys.executable, "-m", "pipelines.compress", "--runner", runner],
        cwd=folder,
        env=os.environ | server,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: read_pids(folder))
        flow.send_signal(end)
        flow.wait(PATIENCE)
    finally:
        flow.kill()
    wait_for(lambda: all(has_ended(pid) for pid in read_pids(folder)))
