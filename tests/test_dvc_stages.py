"""Between the flows and DVC: the graph, one stage's run, what can heal, what is passed on of its output."""

import os
import sys
import threading
from pathlib import Path

import pytest
import yaml
from test_pipelines import ROOT, TWO, project


def test_the_graph_is_dvcs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.dvc_stages import graph

    monkeypatch.chdir(ROOT)
    task = yaml.safe_load((ROOT / "params.yaml").read_text())["tasks"][0]
    needed = graph()
    order = list(needed)
    assert all(order.index(other) < order.index(stage) for stage in order for other in needed[stage])
    assert f"distill@{task}" in needed[f"evaluate@{task}"]
    assert list(graph(["factorize"], task)) == [f"prepare@{task}", f"finetune@{task}", f"factorize@{task}"]
    with pytest.raises(ValueError, match="--stages destill"):
        graph(["destill"])
    rival = [f"prepare@{task}", f"finetune@{task}", "recipes", f"baseline@{task}-svd-42"]
    assert list(graph(["baseline"], task, ["svd"])) == rival
    with pytest.raises(ValueError, match="--only-task nope"):
        graph(None, "nope")
    with pytest.raises(ValueError, match="--recipes sdv: the stages are baseline@"):
        graph(["baseline"], None, ["sdv"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("threads", 0, None), "--workers 0: must be 1 or more"),
        (("threads", 1, "tcp://host:8786"), "only `--runner dask` has one, not threads"),
        (("dask", 1, None), "makd\\[dask\\]"),
    ],
)
def test_a_runner_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, settings: tuple, message: str) -> None:
    from pipelines.runners import task_runner

    monkeypatch.setitem(sys.modules, "prefect_dask", None)  # as if it were not installed
    with pytest.raises((ValueError, RuntimeError), match=message), task_runner(*settings):
        pass


def test_a_stage_waits_while_another_dvc_process_holds_the_lock(tmp_path: Path) -> None:
    from zc.lockfile import LockFile

    from pipelines.dvc_stages import run

    folder = project(tmp_path, TWO)
    held = LockFile(str(folder / ".dvc" / "tmp" / "lock"))
    threading.Timer(6, held.close).start()  # DVC itself gives up after 3 s
    settings = {"force": False, "timeout": 60, "pipeline": "test", "threads": None, "log": print}
    assert run("first@a", folder=str(folder), **settings) is True
    assert (folder / "a.txt").read_text() == "made"


@pytest.mark.parametrize(
    ("output", "heals"),
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
def test_only_what_can_heal_is_tried_again(output: str, heals: bool) -> None:
    from pipelines.dvc_stages import HEALS

    assert bool(HEALS.search(output)) is heals


def test_a_progress_bar_is_thinned_out_and_lines_are_whole() -> None:
    from pipelines.dvc_stages import lines_of

    read, write = os.pipe()
    bar = b"".join(b"\r%3d%%" % share for share in range(100))
    os.write(write, b"one\ntwo \xc3\xa9\n" + bar + b"\r100%\n\x1b[31mred\x1b[0m\nno end")
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        lines = list(lines_of(stream, clock=lambda: 0.0))
    assert [line for line in lines if "%" not in line] == ["one", "two é", "red", "no end"]
    assert len([line for line in lines if "%" in line]) <= 2 and "100%" in lines
