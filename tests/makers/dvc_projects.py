"""Small git and DVC projects, and commands run in them."""

import os
import subprocess
import sys
from pathlib import Path

from dvc.repo import Repo

ROOT = Path(__file__).resolve().parents[2]
"""The project's own folder."""

TWO_STAGES = """
stages:
  first:
    matrix:
      task: [a, b]
    cmd: python -c "open('${item.task}.txt', 'w').write('made')"
    outs:
    - ${item.task}.txt
  second:
    cmd: python -c "print('printed by second'); open('all.txt', 'w').write('made')"
    deps:
    - a.txt
    - b.txt
    outs:
    - all.txt
"""


def make_project(folder: Path, stages: str) -> Path:
    """A git and DVC project with these stages."""
    subprocess.run(["git", "init", "-q", folder], check=True)
    Repo.init(str(folder)).close()
    (folder / "dvc.yaml").write_text(stages)
    return folder


def run_python(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in the tests' own Python, its output as text."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
