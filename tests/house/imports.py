"""Who imports whom in this project, read from the source."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("stages", "serving", "pipelines", "benchmarks")
KINDS = "stages/kinds"
"""Its files are imported by name at run time, and their methods import what they use."""


def list_files(*places: str, root: Path = ROOT) -> list[Path]:
    """All Python files of these folders."""
    return [file for place in places for file in sorted((root / place).rglob("*.py"))]


def find_module(name: str, root: Path = ROOT) -> Path | None:
    """The file of a module of this project, None for what is not one."""
    if name.split(".")[0] not in PACKAGES:
        return None
    base = root / Path(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


@cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf8"))


def list_imports(tree: ast.AST, *, types: bool = True) -> Iterator[str]:
    """Names of all modules, and of what is taken from them, that a piece of code imports, wherever it does.

    Args:
        types: with those that are imported for type hints only.
    """
    hints = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = set() if types else {id(n) for hint in hints for n in ast.walk(hint)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"relative import of {node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def list_imported_files(tree: ast.AST, *, types: bool = True, root: Path = ROOT) -> set[Path]:
    """The project's files that a piece of code imports, without the packages on the way.

    `from stages.tasks import metrics` is the file metrics.py, `from stages.tracking import Run` the package's
    `__init__.py`.
    """
    names = set(list_imports(tree, types=types))
    files = {find_module(name, root) or find_module(name.rpartition(".")[0], root) for name in names}
    return {file for file in files if file}


def list_packages(name: str) -> set[str]:
    """A dotted name and all that it lies in."""
    parts = name.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts) + 1)}


def find_reached(file: Path, ignored: tuple[str, ...] = (), root: Path = ROOT) -> set[Path]:
    """All files that running a file may execute, but for the ignored places and what only they import.

    Of a kind (stages/kinds), only those methods count whose name is called somewhere among the files reached.
    """
    reached: set[Path] = set()
    codes: list[ast.AST] = [parse(file)]
    kinds: set[Path] = set()
    followed: set[int] = set()
    calls: set[str] = set()
    while codes:
        for tree in codes:
            calls |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        modules = {module for tree in codes for module in list_imported_files(tree, types=False, root=root)}
        asked = {name for tree in codes for name in list_imports(tree, types=False)}
        for function, constant in (("get_kind", "TaskKind"), ("get_corpus_kind", "CorpusKind")):
            if f"stages.kinds.{function}" in asked:
                modules |= set(find_kind_files(constant, root))
        modules = {m for m in modules if m not in reached and not is_inside(m, ignored, root)}
        reached |= modules
        kinds |= {m for m in modules if is_inside(m, (KINDS,), root)}
        codes = [parse(m) for m in modules - kinds] + [strip_methods(parse(m)) for m in modules & kinds]
        codes += [m for kind in kinds for m in list_methods(parse(kind)) if m.name in calls and id(m) not in followed]
        followed |= {id(code) for code in codes}
    return reached


def find_kind_files(base: str, root: Path = ROOT) -> Iterator[Path]:
    """Files of kinds with a `KIND` of a class below TaskKind, or below CorpusKind."""
    for file in list_files(KINDS, root=root):
        if any(isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "KIND" for n in parse(file).body):
            classes = [ast.unparse(b) for n in parse(file).body if isinstance(n, ast.ClassDef) for b in n.bases]
            if any("CorpusKind" in name for name in classes) == (base == "CorpusKind"):
                yield file


def list_methods(tree: ast.Module) -> list[ast.FunctionDef]:
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return [node for each in classes for node in each.body if isinstance(node, ast.FunctionDef)]


def strip_methods(tree: ast.Module) -> ast.Module:
    """The module without what only calls of its methods would import."""
    return ast.Module([node for node in tree.body if not isinstance(node, ast.ClassDef)], [])


def is_inside(file: Path, places: tuple[str, ...] | list[str], root: Path = ROOT) -> bool:
    """Is the file one of the places, or inside one?"""
    return any(file.is_relative_to(root / place) for place in places)
