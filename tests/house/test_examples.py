"""The files in examples/ are whole: each is read, checked, and planned by DVC."""

import shutil
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from stages.settings import read_params
from tests.house.imports import ROOT
from tests.makers.dvc_projects import make_project

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_planned_by_dvc(tmp_path: Path, example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cp examples/<name>.yaml params.yaml`, as its first line says; a dry run of the stages that need no other."""
    params = read_params(example)
    make_project(tmp_path, (ROOT / "dvc.yaml").read_text())
    shutil.copy(example, tmp_path / "params.yaml")
    for name in ("stages", "serving"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("baseline", "prune", "time_baselines"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with Repo(".") as repo:
        planned = {stage.addressing for stage in repo.index.stages}
        first = repo.reproduce(["prepare", *(["pack"] if params.corpora else [])], dry=True)
    expected = {*(f"prepare@{task}" for task in params.tasks), *(f"pack@{corpus}" for corpus in params.corpora)}
    assert {stage.addressing for stage in first} == expected
    assert {f"time_baselines@{task}-{recipe}" for task in params.tasks for recipe in params.baseline.recipes} <= planned
    assert {f"prune@{corpus}" for corpus in params.corpora} <= planned


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_the_settings_of_params_yaml(example: Path) -> None:
    """So that it can be taken whole: DVC needs each block that a stage names."""
    shipped, copied = (yaml.safe_load(path.read_text()) for path in (ROOT / "params.yaml", example))
    assert copied.keys() == shipped.keys()
    for name, block in shipped.items():
        if isinstance(block, dict):
            assert copied[name].keys() == block.keys(), name
