"""The graph in dvc.yaml names all that a stage's result depends on, and imports go one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.settings import Params

ROOT = Path(__file__).resolve().parent.parent
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
OWN = ("stages", "serving", "pipelines", "benchmarks")
HOUSE = ("stages/settings", "stages/command.py", "stages/tracking")
"""Not dependencies: their values are tracked as params, or they only start, check and remember."""
UNUSED = dict.fromkeys(("prepare", "finetune", "pack", "pretrain"), "stages/lowrank/modeling.py")
"""Imported by the loader of saved models, which they never call: a new student costs no new teacher."""


def module_file(name: str) -> Path | None:
    """The file of a module of this project, or None for what is not one."""
    if name.split(".")[0] not in OWN:
        return None
    base = ROOT / Path(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def imported(file: Path, *, types: bool = True) -> set[str]:
    """Names of all modules that a file imports, at the top or in a function, and the packages on the way.

    Args:
        types: with those that are imported for type hints only.
    """
    tree = ast.parse(file.read_text(encoding="utf8"))
    hints = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = set() if types else {id(n) for hint in hints for n in ast.walk(hint)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file} imports relatively"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found | {".".join(name.split(".")[:n]) for name in found for n in range(1, name.count(".") + 1)}


def reached(file: Path, seen: set[Path] | None = None) -> set[Path]:
    """All files of this project that a file imports, directly or through others, but for the house's own."""
    seen = set() if seen is None else seen
    for module in map(module_file, imported(file, types=False)):
        if module and module not in seen and not covered(module, HOUSE):
            seen.add(module)
            reached(module, seen)
    return seen


def covered(file: Path, places: tuple[str, ...] | list[str]) -> bool:
    """Is the file one of the places, or inside one?"""
    return any(file.is_relative_to(ROOT / place) for place in places)


def relative(files: set[Path]) -> list[str]:
    return sorted(str(file.relative_to(ROOT)) for file in files)


def stage_file(stage: str) -> Path:
    """The file that a stage runs, from its command."""
    words = GRAPH[stage]["cmd"].split()
    assert words[:2] == ["python", "-m"], "stages run with the environment's own Python"
    file = module_file(words[2])
    assert file, f"{words[2]} has no file"
    return file


@pytest.mark.parametrize("stage", GRAPH)
def test_a_stage_is_a_file_a_block_and_a_folder(stage: str) -> None:
    assert stage_file(stage).stem == stage
    assert stage in Params.model_fields
    for path in outputs(stage):
        allowed = ("export", "teacher", "triton") if stage == "export" else (stage,)
        assert path.split("/")[:2] in [["outputs", name] for name in allowed]


def outputs(stage: str) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in GRAPH[stage].get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


@pytest.mark.parametrize("stage", GRAPH)
def test_params_are_fields(stage: str) -> None:
    for name in GRAPH[stage]["params"]:
        assert name.split(".")[0] in Params.model_fields


@pytest.mark.parametrize("stage", GRAPH)
def test_deps_cover_all_that_is_imported(stage: str) -> None:
    file, deps = stage_file(stage), GRAPH[stage]["deps"]
    known = [*deps, UNUSED.get(stage, deps[0])]
    missing = {f for f in reached(file) | {file} if not covered(f, known) and f.read_text().strip()}
    assert not missing, f"dvc.yaml: {stage}.deps lacks {relative(missing)}"


@pytest.mark.parametrize("stage", GRAPH)
def test_deps_exist_or_are_made(stage: str) -> None:
    made = [path for other in GRAPH for path in outputs(other)]
    for dep in GRAPH[stage]["deps"]:
        dep = dep.replace("${baseline.seeds[0]}", "${item.seed}")  # the first of those that are made
        found = any(f"{path}/".startswith(f"{dep}/") or f"{dep}/".startswith(f"{path}/") for path in made)
        assert (ROOT / dep).exists() or found, dep


def files(*places: str) -> list[Path]:
    return [file for place in places for file in sorted((ROOT / place).rglob("*.py"))]


def roots(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(file)}


def test_nouns_never_import_verbs() -> None:
    verbs = {stage_file(stage) for stage in GRAPH}
    nouns = [file for file in files("stages") if file.parent != ROOT / "stages"]
    for file in nouns:
        assert not verbs & {module_file(name) for name in imported(file)}, file


def test_stages_know_neither_prefect_nor_fastapi() -> None:
    for file in files("stages"):
        assert not {"prefect", "fastapi", "pipelines"} & roots(file), file


def test_the_predictor_stands_alone() -> None:
    predictor = ROOT / "serving/predictor.py"
    for file in {predictor} | reached(predictor):
        assert not {"torch", "transformers", "stages"} & roots(file), file


def test_the_modeling_file_travels_alone() -> None:
    allowed = {"torch", "transformers"} | sys.stdlib_module_names
    assert roots(ROOT / "stages/lowrank/modeling.py") <= allowed


def test_the_rules_can_fail(tmp_path: Path) -> None:
    """The walk sees imports inside functions and packages on the way, so the tests above mean something."""
    file = tmp_path / "one.py"
    file.write_text(
        "import os.path\nif TYPE_CHECKING:\n    import torch\ndef f():\n    from stages.lowrank import modeling\n"
    )
    assert imported(file) - imported(file, types=False) == {"torch"}
    assert {"os", "os.path", "stages", "stages.lowrank", "stages.lowrank.modeling"} <= imported(file)
    assert ROOT / "stages/lowrank/modeling.py" in reached(file)
    assert not covered(ROOT / "stages/lowrank/modeling.py", ["stages/lowrank/model", "stages/tasks"])


def test_dvc_reads_the_graph() -> None:
    """`dvc dag` names every stage, with the shipped matrix filled in; no corpus, nothing to pack."""
    shown = dag(ROOT)
    for stage in GRAPH:
        assert (f'"{stage}' in shown) == ("corpus" not in GRAPH[stage].get("matrix", {})), stage
    assert '"evaluate@sentiment" -> "compare"' in shown


def test_dvc_packs_each_corpus(tmp_path: Path) -> None:
    params = (ROOT / "params.yaml").read_text().replace("corpora: []", "corpora: [bundled, wiki]", 1)
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    shown = dag(tmp_path)
    assert '"pack@bundled"' in shown and '"pack@wiki"' in shown


def dag(folder: Path) -> str:
    command = [sys.executable, "-m", "dvc", "dag", "--dot"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
