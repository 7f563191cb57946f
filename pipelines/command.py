"""The command line of the flows that run stages."""

import argparse
import signal
import sys
from typing import Any, get_args

from prefect import Flow

from pipelines.runners import RunnerKind

TIMEOUT = 6 * 3600.0
"""Seconds that a stage may take."""


def make_parser(name: str, doc: str) -> argparse.ArgumentParser:
    """Of `python -m pipelines.<name>`, with the options that all such flows have."""
    options = argparse.ArgumentParser(
        prog=f"python -m pipelines.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only-task", help="leave the stages of other tasks out")
    runners = get_args(RunnerKind)
    options.add_argument("--runner", choices=runners, default=runners[0], help="where stages run; see pipelines.study")
    options.add_argument("--address", help="of a Dask scheduler; without it, workers on this machine")
    options.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds that a stage may take")
    return options


def run_flow(flow: Flow[..., Any], options: argparse.ArgumentParser) -> None:
    """Runs the flow as the command line says; SIGTERM stops it as an interrupt does, with all its stages."""
    arguments = options.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        flow(**vars(arguments))
    except (RuntimeError, ValueError) as error:
        sys.exit(f"{flow.name}: {error}")
