"""How long the command line lets people wait: each verb's `--help`, and a `dvc repro` that has nothing to do.

    python -m benchmarks.startup

Each is a process of its own; the best of three counts, for the machine may be busy. Limits: 1 s and 5 s. The
chain must have been run before (`make run`), otherwise the second figure is left out.
"""

import subprocess
import sys
import time
from pathlib import Path

import yaml
from tabulate import tabulate

HELP_LIMIT, REPRO_LIMIT = 1.0, 5.0


def startup(graph: Path) -> list[tuple[str, float | None, float]]:
    """Command, seconds (best of three, None: not measured) and limit, for every stage of a dvc.yaml."""
    stages = yaml.safe_load(graph.read_text(encoding="utf8"))["stages"]
    modules = dict.fromkeys(stage["cmd"].split()[2] for stage in stages.values())
    rows = [(f"python -m {m} --help", seconds("-m", m, "--help"), HELP_LIMIT) for m in modules]
    quiet = not output("-m", "dvc", "status", "--quiet").returncode
    return [*rows, ("dvc repro", seconds("-m", "dvc", "repro") if quiet else None, REPRO_LIMIT)]


def seconds(*arguments: str, times: int = 3) -> float:
    """The shortest wall time of some runs of Python with these arguments.

    Raises:
        RuntimeError: it failed; the message is its own.
    """
    found = []
    for _ in range(times):
        start = time.perf_counter()
        done = output(*arguments)
        found.append(time.perf_counter() - start)
        if done.returncode:
            raise RuntimeError(f"python {' '.join(arguments)}: {done.stderr.strip()}")
    return min(found)


def output(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


def report(rows: list[tuple[str, float | None, float]]) -> str:
    """The table, with a verdict on each row."""
    lines = []
    for name, took, limit in rows:
        verdict = "run `make run` first" if took is None else "ok" if took < limit else "TOO SLOW"
        lines.append((name, "-" if took is None else f"{took:.2f}", f"{limit:.0f}", verdict))
    return tabulate(lines, headers=("command", "seconds", "limit", ""), tablefmt="github")


if __name__ == "__main__":
    found = startup(Path("dvc.yaml"))
    print(report(found))
    sys.exit(any(took is not None and took >= limit for _, took, limit in found))
