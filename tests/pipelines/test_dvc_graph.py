"""The graph of a flow is DVC's own."""

from pathlib import Path

import pytest
import yaml

from pipelines.dvc_graph import make_folders, read_graph
from tests.makers.dvc_projects import ROOT, make_project

TASK = yaml.safe_load((ROOT / "params.yaml").read_text())["tasks"][0]
COLLECTING = """
stages:
  train:
    matrix: {task: [a, b]}
    cmd: python -c ""
    outs: ["outputs/train/${item.task}.txt"]
  other:
    cmd: python -c ""
    outs: [elsewhere/other.txt]
  compare:
    cmd: python -c ""
    deps: [outputs/train, data]
"""


def test_stages_follow_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    needs = read_graph()
    order = list(needs)
    assert all(order.index(other) < order.index(stage) for stage in order for other in needs[stage])
    assert f"distill@{TASK}" in needs[f"evaluate@{TASK}"]


def test_stages_are_selected_with_all_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert list(read_graph(["factorize"], TASK)) == [f"prepare@{TASK}", f"finetune@{TASK}", f"factorize@{TASK}"]
    baseline = [f"prepare@{TASK}", f"finetune@{TASK}", "recipes", f"baseline@{TASK}-svd-42"]
    assert list(read_graph(["baseline"], TASK, ["svd"])) == baseline
    timed = read_graph(["time_baselines"], TASK, ["svd"])
    assert {name for name in timed if "baseline" in name} == {f"baseline@{TASK}-svd-42", f"time_baselines@{TASK}-svd"}
    assert timed[f"time_baselines@{TASK}-svd"] == [f"baseline@{TASK}-svd-42", f"export@{TASK}", f"prepare@{TASK}"]


def test_names_that_select_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match="--stages destill: the stages are "):
        read_graph(["destill"])
    with pytest.raises(ValueError, match="--only-task nope: no stage is of this task; see `tasks`"):
        read_graph(None, "nope")
    with pytest.raises(ValueError, match="--recipes sdv: the stages are baseline@"):
        read_graph(["baseline"], None, ["sdv"])


def test_folders_that_a_stage_collects_from_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no others: `data` is nobody's output."""
    monkeypatch.chdir(make_project(tmp_path, COLLECTING))
    make_folders("compare")
    assert (tmp_path / "outputs/train").is_dir()
    assert not (tmp_path / "data").exists() and not (tmp_path / "elsewhere").exists()
