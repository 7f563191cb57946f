"""Where a stage stands: the project's root, its pipeline run, its process, git, DVC, and its settings."""

import json
import os
import socket
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from stages.settings import Params


def is_main() -> bool:
    """False in the processes beside the first under `accelerate launch`."""
    return int(os.environ.get("RANK", "0")) == 0


def root() -> Path:
    """The checkout: also for an experiment, which DVC runs in a copy under `.dvc/tmp/exps`."""
    here = Path.cwd().resolve()
    copies = [folder for folder in here.parents if folder.parts[-3:] == (".dvc", "tmp", "exps")]
    return copies[0].parents[2] if copies else here


def process() -> list[str | float]:
    """Host, id and start of this process: what tells whether a journal's writer still lives."""
    import psutil

    return [socket.gethostname(), os.getpid(), psutil.Process().create_time()]


def pipeline() -> str | None:
    """Name of the pipeline run that this stage is part of; None for a stage that was started by hand.

    `MAKD_PIPELINE` where the starter set it (Prefect), else the `dvc` process above this one.
    """
    if name := os.environ.get("MAKD_PIPELINE"):
        return name
    import psutil

    for above in psutil.Process().parents():
        try:
            words = [Path(word).name for word in above.cmdline()[:3]]
            if "dvc" in words:
                started = datetime.fromtimestamp(above.create_time())
                return f"dvc {started:%Y-%m-%d %H:%M:%S} {socket.gethostname()}:{above.pid}"
        except psutil.Error:
            continue
    return None


def parameters(verb: str, task: str, recipe: str, params: Params, corpus: str = "") -> dict[str, str]:
    """Seed, task or corpus, recipe, base model, data source and the verb's own block, flattened to dotted names.

    A recipe shows the `factorize` and `distill` blocks as it changes them; with a corpus the base model is that of
    `pretrain`.
    """
    blocks = {"seed": params.seed, "base": params.base.model_dump(), "data": params.data.model_dump()}
    if task:
        blocks["task"] = task
    if corpus:
        blocks |= {"corpus": corpus, "base": params.pretrain.base.model_dump()}
    if recipe:
        factorize, distill = params.recipe(recipe)
        blocks |= {"recipe": recipe, "factorize": factorize.model_dump()}
        blocks["distill"] = distill.model_dump() if distill else None
    elif verb in type(params).model_fields:
        blocks |= params.model_dump(include={verb})
    return flat(blocks)


def tags(verb: str) -> dict[str, str]:
    """What was run: the stage's module, git's commit, branch and state, and what DVC says of the stage."""
    folder = "serving" if verb == "benchmark" else "stages"
    found = {"mlflow.source.name": f"{folder}/{verb}.py", "mlflow.source.type": "LOCAL"}
    if commit := _git("rev-parse", "HEAD"):
        found["mlflow.source.git.commit"] = commit
        found["mlflow.source.git.branch"] = _git("rev-parse", "--abbrev-ref", "HEAD") or ""
        found["git.dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    names = ("DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")
    return found | {name.lower(): os.environ[name] for name in names if name in os.environ}


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def flat(values: dict[str, Any]) -> dict[str, str]:
    """Nested blocks as MLflow's parameters: dotted names, values as text."""
    return dict(_flat(values))


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}.{key}".lstrip("."))]
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return [(prefix, text[:6000])]
