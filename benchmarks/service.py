"""What HTTP costs: the service against the bare ONNX Runtime session of the same model, in turns.

    python -m benchmarks.service outputs/teacher/sentiment outputs/export/sentiment outputs/export/sentiment:int8 \\
      --texts outputs/prepare/sentiment/data

The bare session runs batches of 1 to 64 texts that were tokenized and padded before the clock starts: in the order
given, and sorted by length, so that nearly nothing is padding. The service, a process of its own with as many threads
for the model, gets requests of one text each from 64 clients. A figure is texts per second, the median over the rounds;
a ratio is the service's over the best batch size's within one round. `python -m serving.load` measures latencies.
"""

import argparse
import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile

from tabulate import tabulate

from benchmarks.options import make_parser
from serving.exported import Feed, ModelError
from serving.load import loops
from serving.load.client import Client
from serving.load.settings import Load
from serving.load.texts import Texts, read_texts
from serving.predictor import Predictor

SIZES = (1, 2, 4, 8, 16, 32, 64)
SERVICE = "service"
ORDERS = {"as they come": False, "sorted": True}
"""Order of the session's texts -> whether they are sorted by length."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_options(arguments)
    try:
        texts = read_texts(options.texts, seed=0)
        rows = [compare_service(model, texts, options) for model in options.models]
    except ModelError as error:
        sys.exit(f"service: {error}")
    heads = ["texts per second", SERVICE, *(f"session, {order}" for order in ORDERS), *(f"/ {o}" for o in ORDERS)]
    print(tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = make_parser(__doc__)
    parser.add_argument("models", nargs="+", help="folders that `export` wrote; FOLDER:int8 for another variant")
    parser.add_argument("--texts", type=Path, help="as `python -m serving.load` takes them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="for the service, and for all batch sizes together")
    return parser.parse_args(arguments)


def compare_service(model: str, texts: Texts, options: argparse.Namespace) -> list[str]:
    """A row of the table: the model, texts per second of service and sessions, the ratios."""
    folder, _, variant = model.partition(":")
    predictor = Predictor(folder, variant or "fp32", threads=options.threads)
    batches = {order: make_batches(predictor, texts, by_length) for order, by_length in ORDERS.items()}
    rates: dict[str, list[float]] = {name: [] for name in (SERVICE, *ORDERS)}
    with run_service(folder, variant or "fp32", options.threads) as url:
        for _ in range(options.rounds):
            rates[SERVICE].append(asyncio.run(measure_service(url, texts, options)))
            for order, by_size in batches.items():
                seconds = options.seconds / len(by_size)
                rates[order].append(max(measure_session(predictor, of_size, seconds) for of_size in by_size))
    ratios = [median(s / bare for s, bare in zip(rates[SERVICE], rates[order], strict=True)) for order in ORDERS]
    return [model, *(f"{median(each):.0f}" for each in rates.values()), *(f"{ratio:.2f}" for ratio in ratios)]


def make_batches(predictor: Predictor, texts: Texts, by_length: bool) -> list[list[Feed]]:
    """All texts, padded, in batches of each size."""
    rows = predictor.encode([text[0] if len(text) == 1 else (text[0], text[1]) for text in texts])
    if by_length:
        rows.sort(key=len)
    return [[predictor.pad(rows[i : i + size]) for i in range(0, len(rows), size)] for size in SIZES]


def measure_session(predictor: Predictor, batches: list[Feed], seconds: float) -> float:
    """Texts per second of the bare session, over whole rounds of the texts, so that all sizes do the same work."""
    predictor.run(batches[-1])
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for batch in batches:
            count += len(predictor.run(batch))
    return count / (time.perf_counter() - start)


async def measure_service(url: str, texts: Texts, options: argparse.Namespace) -> float:
    """Texts per second of the service."""
    async with Client(Load(url=url)) as client:
        bodies = client.make_bodies(texts)
        await loops.run_closed_loop(client.ask, bodies, options.clients, 1.0)
        samples = await loops.run_closed_loop(client.ask, bodies, options.clients, options.seconds)
    if failed := [sample.error for sample in samples if sample.error]:
        sys.exit(f"service: {len(failed)} of {len(samples)} requests failed, such as {failed[0]}")
    return len(samples) / max(sample.done for sample in samples)


@contextmanager
def run_service(folder: str, variant: str, threads: int) -> Iterator[str]:
    """The service in a process of its own; its address."""
    command = [sys.executable, "-m", "serving", folder, "--variant", variant, "--threads", str(threads), "--port", "0"]
    with NamedTemporaryFile(mode="w+") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            while not (address := re.search(r"http://[\d.:]+", Path(log.name).read_text())):
                if process.poll() is not None:
                    sys.exit(Path(log.name).read_text())
                time.sleep(0.1)
            yield address.group()
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
