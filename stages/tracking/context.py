"""The context of a stage: the checkout, its pipeline run, its process, git and DVC."""

import os
import socket
import subprocess
from datetime import datetime
from pathlib import Path


def is_main() -> bool:
    """False in the processes beside the first under `accelerate launch`."""
    return int(os.environ.get("RANK", "0")) == 0


def find_checkout() -> Path:
    """The checkout: also for an experiment, which DVC runs in a copy under `.dvc/tmp/exps`."""
    here = Path.cwd().resolve()
    copies = [folder for folder in here.parents if folder.parts[-3:] == (".dvc", "tmp", "exps")]
    return copies[0].parents[2] if copies else here


def get_tracking_uri(checkout: Path) -> str:
    """The MLflow server that MLFLOW_TRACKING_URI names, or the checkout's own database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{checkout / '.makd' / 'mlflow.db'}"


def identify_process() -> list[str | float]:
    """Host, id and start of this process, by which others can see whether it still lives."""
    import psutil

    return [socket.gethostname(), os.getpid(), psutil.Process().create_time()]


def find_pipeline() -> str | None:
    """Key of the pipeline run that this stage is part of; None for a stage that was started by hand.

    `MAKD_PIPELINE` where the starter set it (Prefect), else the `dvc` process above this one.
    """
    if key := os.environ.get("MAKD_PIPELINE"):
        return key
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


def collect_tags(verb: str) -> dict[str, str]:
    """The stage's module, git's commit, branch and state, and DVC's names of stage and experiment."""
    tags = {"mlflow.source.name": f"stages/{verb}.py", "mlflow.source.type": "LOCAL"}
    if commit := _run_git("rev-parse", "HEAD"):
        tags["mlflow.source.git.commit"] = commit
        tags["mlflow.source.git.branch"] = _run_git("rev-parse", "--abbrev-ref", "HEAD") or ""
        tags["git.dirty"] = str(bool(_run_git("status", "--porcelain", "--untracked-files=no"))).lower()
    names = ("DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")
    return tags | {name.lower(): os.environ[name] for name in names if name in os.environ}


def _run_git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
