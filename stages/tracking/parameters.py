"""Settings as MLflow shows them: all of a stage's on its own run, those that were changed on the pipeline's run."""

import json
from typing import Any

from stages.settings import Distill, Params

SHOWN = ("tasks", "base.model", "data.source", "factorize.budget", "seed")
"""Settings that a pipeline run shows whether they were changed or not."""


def list_stage_parameters(verb: str, task: str, recipe: str, params: Params, corpus: str = "") -> dict[str, str]:
    """Seed, task or corpus, recipe, base model, data source and the verb's own block, flattened to dotted names.

    A recipe has the `factorize` and `distill` blocks as it changes them; with a corpus the base model is that of
    `pretrain`.
    """
    blocks: dict[str, Any] = {
        "seed": params.seed,
        "base": params.base.model_dump(),
        "data": params.data.model_dump(),
    }
    if task:
        blocks["task"] = task
    if corpus:
        blocks |= {"corpus": corpus, "base": params.pretrain.base.model_dump()}
    if recipe:
        factorize, distill = params.resolve_recipe(recipe)
        blocks |= {"recipe": recipe, "factorize": factorize.model_dump()}
        blocks["distill"] = distill.model_dump() if distill else None
    elif verb in type(params).model_fields:
        blocks |= params.model_dump(include={verb})
    return flatten(blocks)


def list_changed_parameters(params: Params) -> dict[str, str]:
    """Settings that differ from the defaults, and a few that are always shown; recipes apart, which the runs show."""
    own, default = (dict(_flatten(each.model_dump(exclude={"recipes", "tracking"}))) for each in (params, Params()))
    changed = {name: value for name, value in own.items() if name not in default or default[name] != value}
    shown = {name: own[name] for name in SHOWN if name in own} | changed
    return {name: _to_text(value) for name, value in shown.items()}


def name_pipeline(params: Params) -> str:
    """Tasks, budget, and how the student is taught: `sst2, cola · budget 0.5 · makd`."""
    names = ", ".join(params.tasks if len(params.tasks) < 5 else [*params.tasks[:4], "…"])
    return f"{names} · budget {params.factorize.budget:g} · {name_objectives(params.distill)}"


def name_objectives(distill: Distill) -> str:
    """`makd` for the default terms, otherwise the names of the terms; the hierarchy where it is not the default."""
    default = Distill()
    terms = list(distill.objectives.active_terms())
    name = "makd" if terms == list(default.objectives.active_terms()) else "+".join(terms)
    return name if distill.hierarchy == default.hierarchy else f"{name}, {distill.hierarchy}"


def flatten(values: dict[str, Any]) -> dict[str, str]:
    """Nested blocks as MLflow's parameters: dotted names, values as text."""
    return {name: _to_text(value) for name, value in _flatten(values)}


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flatten(inner, f"{prefix}.{key}".lstrip("."))]
    return [(prefix, value)]


def _to_text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:6000]
