"""Imports go one way, from a room to those below it, and files form no circle; type hints and lazy imports count."""

import shutil
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.house.imports import ROOT, is_inside, list_files, list_imported_files, list_imports, parse

FLOORS: list[list[str]] = [
    ["stages/errors.py", "stages/logs.py", "stages/progress.py", "stages/__init__.py"],
    ["stages/schema"],
    ["stages/objectives"],
    ["stages/settings"],
    ["stages/models"],
    ["stages/tasks", "stages/lowrank"],
    ["stages/corpora", "serving"],
    ["stages/tracking"],
    ["stages/workspace.py"],
    ["stages/training"],
    ["stages/language"],
    ["stages/distillation"],
    ["stages/pruning"],
    ["stages/graph", "stages/comparison", "stages/timing"],
    ["stages/kinds"],
    ["stages/command.py"],
    ["stages"],
    ["pipelines", "benchmarks"],
]
"""From the ground up; rooms of one floor do not know each other. The last but one holds the verbs."""
VERBS_IN_VERBS = {"stages/baseline.py": {"distill", "evaluate", "factorize", "recipes"}}
"""A baseline is made as the main chain's student is."""


def find_floor(file: Path, root: Path) -> tuple[int, str]:
    """A file's floor and room; where rooms lie in one another, the inner one counts."""
    rooms = [(len(room), floor, room) for floor, rooms in enumerate(FLOORS) for room in rooms]
    return next((floor, room) for _, floor, room in sorted(rooms, reverse=True) if is_inside(file, [room], root))


def find_violations(root: Path) -> list[str]:
    """Imports from the same floor's other rooms, or from above."""
    violations = []
    for file in list_files("stages", "serving", "pipelines", "benchmarks", root=root):
        name = str(file.relative_to(root))
        floor, room = find_floor(file, root)
        for module in list_imported_files(parse(file), root=root):
            below, other = find_floor(module, root)
            within = module.stem in VERBS_IN_VERBS.get(name, ()) if room == "stages" else room == other
            if below >= floor and not within:
                violations.append(f"{name} imports {module.relative_to(root)}")
    return violations


def find_circle(root: Path) -> list[str]:
    """Files that import each other in a circle, if there is one."""
    files = list_files("stages", "serving", "pipelines", "benchmarks", root=root)
    graph = {file: list_imported_files(parse(file), root=root) - {file} for file in files}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(file.relative_to(root)) for file in error.args[1]]
    return []


def test_imports_go_down() -> None:
    assert find_violations(ROOT) == []


def test_no_files_import_each_other() -> None:
    assert find_circle(ROOT) == []


@pytest.mark.parametrize(
    ("file", "planted", "violation"),
    [
        ("stages/models/size.py", "import stages.lowrank.ranks", "stages/lowrank/ranks.py"),
        ("stages/models/size.py", "def f():\n    from stages.tracking import Run", "stages/tracking/__init__.py"),
        (
            "stages/tasks/splits.py",
            "if TYPE_CHECKING:\n    from stages.training.train import TrainingJob",
            "stages/training/train.py",
        ),
        ("stages/tasks/splits.py", "from stages.lowrank import ranks", "stages/lowrank/ranks.py"),
        ("serving/predictor.py", "from stages.errors import BadInput", ""),
        ("stages/distill.py", "from stages.factorize import factorize", "stages/factorize.py"),
    ],
)
def test_a_planted_import_is_seen(tmp_path: Path, file: str, planted: str, violation: str) -> None:
    for folder in ("stages", "serving", "pipelines", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / file
    path.write_text(f"{path.read_text()}\n{planted}\n")
    if file.startswith("serving"):
        assert list_stage_imports(tmp_path) == [file]
    else:
        assert find_violations(tmp_path) == [f"{file} imports {violation}"]


def test_a_planted_circle_is_seen(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/a.py").write_text("def f():\n    from stages.b import g\n")
    (tmp_path / "stages/b.py").write_text("from stages.a import f\n")
    assert set(find_circle(tmp_path)) == {"stages/a.py", "stages/b.py"}


def list_roots(file: Path) -> set[str]:
    """Top-level packages that a file imports."""
    return {name.split(".")[0] for name in list_imports(parse(file))}


def list_stage_imports(root: Path) -> list[str]:
    """Files of the service that import from stages."""
    files = list_files("serving", root=root)
    return [str(file.relative_to(root)) for file in files if "stages" in list_roots(file)]


def test_the_service_stands_alone() -> None:
    assert list_stage_imports(ROOT) == []


def test_the_service_needs_no_training_framework() -> None:
    for file in list_files("serving"):
        allowed = {"datasets"} if file.parent.name == "load" else set()  # the load tool reads what `prepare` wrote
        assert not {"torch", "transformers", "datasets"} & list_roots(file) - allowed, file


def test_stages_know_neither_prefect_nor_fastapi() -> None:
    for file in list_files("stages"):
        assert not {"prefect", "fastapi", "pipelines"} & list_roots(file), file
