"""dvc.yaml names all that a stage's result depends on, and nothing that is not there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.settings import Params
from tests.house.imports import ROOT, find_module, find_reached, is_inside, list_files, list_imports, parse

GRAPH: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
IGNORED = (
    "stages/settings",
    "stages/schema",
    "stages/tracking",
    "stages/command.py",
    "stages/errors.py",
    "stages/logs.py",
    "stages/progress.py",
    "stages/workspace.py",
)
"""Not dependencies: their values are tracked as params, or they only start, check, report and remember."""


def find_stage_file(stage: str) -> Path:
    """The file that a stage runs, from its command."""
    words = GRAPH[stage]["cmd"].split()
    assert words[:2] == ["python", "-m"], "stages run with the environment's own Python"
    file = find_module(words[2])
    assert file, f"{words[2]} has no file"
    return file


def list_outputs(stage: str) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in GRAPH[stage].get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def find_missing_deps(stage: str, deps: list[str]) -> list[str]:
    """Files that running the stage may execute, and that its dependencies do not name."""
    file = find_stage_file(stage)
    files = find_reached(file, IGNORED) | {file}
    return sorted(str(f.relative_to(ROOT)) for f in files if not is_inside(f, deps) and f.read_text().strip())


@pytest.mark.parametrize("stage", GRAPH)
def test_a_stage_is_a_file_a_block_and_a_folder(stage: str) -> None:
    assert find_stage_file(stage).stem == stage
    assert stage in Params.model_fields
    for path in list_outputs(stage):
        allowed = ("export", "teacher", "triton") if stage == "export" else (stage,)
        assert path.split("/")[:2] in [["outputs", name] for name in allowed]


@pytest.mark.parametrize("stage", GRAPH)
def test_params_are_fields(stage: str) -> None:
    for name in GRAPH[stage]["params"]:
        assert name.split(".")[0] in Params.model_fields


@pytest.mark.parametrize("stage", GRAPH)
def test_deps_cover_all_that_is_executed(stage: str) -> None:
    assert find_missing_deps(stage, GRAPH[stage]["deps"]) == []


@pytest.mark.parametrize("stage", GRAPH)
def test_deps_are_all_needed(stage: str) -> None:
    """A room that a stage does not use would run it again for nothing."""
    for dep in GRAPH[stage]["deps"]:
        if dep.endswith(".py") or (is_inside(ROOT / dep, ["stages"]) and (ROOT / dep).is_dir()):
            assert find_missing_deps(stage, [other for other in GRAPH[stage]["deps"] if other != dep]), dep


@pytest.mark.parametrize("stage", GRAPH)
def test_deps_exist_or_are_made(stage: str) -> None:
    made = [path for other in GRAPH for path in list_outputs(other)]
    for dep in GRAPH[stage]["deps"]:
        dep = dep.replace("${baseline.seeds[0]}", "${item.seed}")  # the first of those that are made
        is_made = any(f"{path}/".startswith(f"{dep}/") or f"{dep}/".startswith(f"{path}/") for path in made)
        assert (ROOT / dep).exists() or is_made, dep


def test_metrics_are_few_and_small() -> None:
    """`dvc metrics diff` and `dvc exp show` are for reading: everything else is an output."""
    assert [stage for stage in GRAPH if "metrics" in GRAPH[stage]] == ["compare", "prune"]


def test_a_missing_dependency_is_seen() -> None:
    assert find_missing_deps("distill", GRAPH["factorize"]["deps"])[0] == "stages/distill.py"


def test_what_a_kind_does_elsewhere_is_no_dependency(tmp_path: Path) -> None:
    """Of a kind's methods those count that the stage calls, by way of whatever they call."""
    for name, code in {
        "stages/kinds/__init__.py": "",
        "stages/kinds/base.py": "class TaskKind:\n    def train(self):\n        raise NotImplementedError\n",
        "stages/kinds/mine.py": (
            "from stages.kinds.base import TaskKind\nclass Mine(TaskKind):\n"
            "    def train(self):\n        return self.help()\n"
            "    def help(self):\n        import stages.a\n"
            "    def export(self):\n        import stages.b\n"
            "KIND = Mine()\n"
        ),
        "stages/a.py": "A = 1\n",
        "stages/b.py": "B = 1\n",
        "stages/verb.py": "from stages.kinds import get_kind\ndef verb(task):\n    get_kind(task).train()\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    reached = {str(file.relative_to(tmp_path)) for file in find_reached(tmp_path / "stages/verb.py", root=tmp_path)}
    assert reached == {"stages/kinds/__init__.py", "stages/kinds/base.py", "stages/kinds/mine.py", "stages/a.py"}


def test_the_modeling_file_travels_alone() -> None:
    roots = {name.split(".")[0] for name in list_imports(parse(ROOT / "stages/models/modeling.py"))}
    assert roots <= {"torch", "transformers"} | sys.stdlib_module_names


def test_every_verb_is_a_stage() -> None:
    others = {"__init__", "command", "doctor", "errors", "logs", "progress", "workspace"}
    verbs = {file.stem for file in list_files("stages") if file.parent == ROOT / "stages"} - others
    assert verbs == set(GRAPH)


def test_dvc_reads_the_graph() -> None:
    """`dvc dag` names every stage, with the shipped matrix filled in; no corpus, nothing to pack."""
    shown = show_graph(ROOT)
    for stage in GRAPH:
        assert (f'"{stage}' in shown) == ("corpus" not in GRAPH[stage].get("matrix", {})), stage
    assert '"evaluate@sentiment" -> "compare"' in shown


def test_dvc_packs_each_corpus(tmp_path: Path) -> None:
    params = (ROOT / "params.yaml").read_text().replace("corpora: []", "corpora: [bundled, wiki]", 1)
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    shown = show_graph(tmp_path)
    assert '"pack@bundled"' in shown and '"pack@wiki"' in shown


def show_graph(folder: Path) -> str:
    command = [sys.executable, "-m", "dvc", "dag", "--dot"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
