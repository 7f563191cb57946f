"""How long the command line takes to answer: each verb's `--help`, and a `dvc repro` that has nothing to do.

    python -m benchmarks.startup

Each is a process of its own; the best of three counts, for the machine may be busy. Limits: 0.5 s and 2 s. The
chain must have been run before (`make run`), otherwise the second figure is left out.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from tabulate import tabulate

from benchmarks.options import make_parser

HELP_LIMIT, REPRO_LIMIT = 0.5, 2.0
"""Seconds."""
RUNS = 3


class Startup(NamedTuple):
    """A command's time."""

    command: str
    seconds: float | None
    """The best run's; None: not measured."""
    limit: float

    @property
    def is_slow(self) -> bool:
        """Whether it takes longer than its limit."""
        return self.seconds is not None and self.seconds >= self.limit


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; the exit code is 1 where a command is too slow."""
    parse_options(arguments)
    rows = measure_startup(Path("dvc.yaml"))
    print(format_table(rows))
    sys.exit(any(row.is_slow for row in rows))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line has no options but `--help`."""
    return make_parser(__doc__).parse_args(arguments)


def measure_startup(graph: Path) -> list[Startup]:
    """Of `--help` for every stage of a dvc.yaml, and of `dvc repro`."""
    stages = yaml.safe_load(graph.read_text(encoding="utf8"))["stages"]
    modules = dict.fromkeys(stage["cmd"].split()[2] for stage in stages.values())
    rows = [Startup(f"python -m {m} --help", time_python("-m", m, "--help"), HELP_LIMIT) for m in modules]
    is_up_to_date = not run_python("-m", "dvc", "status", "--quiet").returncode
    return [*rows, Startup("dvc repro", time_python("-m", "dvc", "repro") if is_up_to_date else None, REPRO_LIMIT)]


def time_python(*arguments: str) -> float:
    """The shortest wall time in seconds of some runs of Python with these arguments.

    Raises:
        RuntimeError: it failed; the message is its own.
    """
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        process = run_python(*arguments)
        times.append(time.perf_counter() - start)
        if process.returncode:
            raise RuntimeError(f"python {' '.join(arguments)}: {process.stderr.strip()}")
    return min(times)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of this Python, its output as text."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


def format_table(rows: list[Startup]) -> str:
    """The table, with a verdict on each row."""
    lines = []
    for row in rows:
        verdict = "run `make run` first" if row.seconds is None else "TOO SLOW" if row.is_slow else "ok"
        seconds = "-" if row.seconds is None else f"{row.seconds:.2f}"
        lines.append((row.command, seconds, f"{row.limit:g}", verdict))
    return tabulate(lines, headers=("command", "seconds", "limit", ""), tablefmt="github")


if __name__ == "__main__":
    main()
