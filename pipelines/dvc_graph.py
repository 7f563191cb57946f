"""DVC's graph of stages, read from DVC itself."""

import re
from pathlib import Path

import networkx
from dvc.repo import Repo


def read_graph(
    stages: list[str] | None = None, only_task: str | None = None, recipes: list[str] | None = None
) -> dict[str, list[str]]:
    """Stages in an order that works, each with the stages that it needs.

    Args:
        stages: names of dvc.yaml (`distill`) or single stages (`distill@sst2`), with all they need.
        only_task: leaves out the stages of other tasks.
        recipes: leaves out the baselines of other recipes, and their timings.

    Raises:
        ValueError: a name that selects nothing.
    """
    with Repo(".") as repo:
        graph = networkx.relabel_nodes(repo.index.graph, lambda stage: stage.addressing)
    selected = set(graph) if stages is None else set()
    for name in stages or []:
        chosen = {node for node in graph if name in (node, node.split("@")[0])}
        if not chosen:
            raise ValueError(f"--stages {name}: the stages are {', '.join(sorted(graph))}")
        selected |= chosen.union(*(networkx.descendants(graph, node) for node in chosen))
    if only_task:
        selected = {node for node in selected if "@" not in node or _is_of_task(node, only_task)}
        if not any("@" in node for node in selected):
            raise ValueError(f"--only-task {only_task}: no stage is of this task; see `tasks` in params.yaml")
    if recipes is not None:
        selected -= _select_other_recipes(selected, recipes)
    order = networkx.lexicographical_topological_sort(graph.subgraph(selected).reverse())
    return {node: sorted(set(graph.successors(node)) & selected) for node in order}


def make_folders(stage: str) -> None:
    """Makes the folders that this stage collects others' outputs from: DVC runs none that lacks a dependency."""
    with Repo(".") as repo:
        outs = [Path(out.fs_path) for each in repo.index.stages for out in each.outs]
        folders = [Path(dep.fs_path) for each in repo.index.stages if each.addressing == stage for dep in each.deps]
    for folder in folders:
        if any(folder in out.parents for out in outs):
            folder.mkdir(parents=True, exist_ok=True)


def _select_other_recipes(nodes: set[str], recipes: list[str]) -> set[str]:
    """Baselines of none of the recipes: `baseline@<task>-<recipe>-<seed>`, `time_baselines@<task>-<recipe>`."""
    baselines = {node for node in nodes if node.split("@")[0] in ("baseline", "time_baselines")}
    chosen = set()
    for recipe in recipes:
        of_recipe = {node for node in baselines if re.fullmatch(rf".+-{re.escape(recipe)}(-\d+)?", node)}
        if not of_recipe:
            raise ValueError(f"--recipes {recipe}: the stages are {', '.join(sorted(baselines))}")
        chosen |= of_recipe
    return baselines - chosen


def _is_of_task(node: str, task: str) -> bool:
    axes = node.split("@", 1)[1]
    return axes == task or axes.startswith(f"{task}-")
