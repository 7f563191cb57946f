"""What HTTP costs: the service against the bare ONNX Runtime session of the same model, in turns.

    python -m benchmarks.service outputs/teacher/sentiment outputs/export/sentiment outputs/export/sentiment:int8 \\
      --texts outputs/prepare/sentiment/data

The bare session runs batches of 1 to 64 texts that were tokenized and padded before the clock: as they come, and sorted
by length, so that nearly nothing is padding. The service, a process of its own with as many threads for the model, is
asked for one text a request by 64 clients. A figure is texts per second, the median over the rounds; a ratio is the
service's over the best batch size's within one round. How long an answer takes, `python -m serving.load` tells.
"""

import argparse
import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile

from tabulate import tabulate

from serving.folder import ModelError
from serving.load import loops
from serving.load.client import Client
from serving.load.settings import Load
from serving.load.texts import Texts, read
from serving.predictor import Predictor
from serving.timing import Batch

SIZES = (1, 2, 4, 8, 16, 32, 64)
ORDERS = {"as they come": False, "sorted": True}


def main() -> None:
    options = _options()
    try:
        texts = read(options.texts, seed=0)
        rows = [_compared(model, texts, options) for model in options.models]
    except ModelError as error:
        sys.exit(f"service: {error}")
    heads = ["texts per second", "service", *(f"session, {order}" for order in ORDERS), *(f"/ {o}" for o in ORDERS)]
    print(tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders that `export` wrote; FOLDER:int8 for another variant")
    parser.add_argument("--texts", type=Path, help="as `python -m serving.load` takes them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="for the service, and for all batch sizes together")
    return parser.parse_args()


def _compared(model: str, texts: Texts, options: argparse.Namespace) -> list[str]:
    """A row of the table."""
    folder, _, variant = model.partition(":")
    predictor = Predictor(folder, variant or "fp32", threads=options.threads)
    batches = {order: _batches(predictor, texts, in_order) for order, in_order in ORDERS.items()}
    found: dict[str, list[float]] = {name: [] for name in ("service", *ORDERS)}
    with _serving(folder, variant or "fp32", options.threads) as url:
        for _ in range(options.rounds):
            found["service"].append(asyncio.run(_asked(url, texts, options)))
            for order, of_size in batches.items():
                seconds = options.seconds / len(of_size)
                found[order].append(max(_rate(predictor, many, seconds) for many in of_size))
    ratios = [median(ours / bare for ours, bare in zip(found["service"], found[o], strict=True)) for o in ORDERS]
    return [model, *(f"{median(rates):.0f}" for rates in found.values()), *(f"{ratio:.2f}" for ratio in ratios)]


def _batches(predictor: Predictor, texts: Texts, in_order: bool) -> list[list[Batch]]:
    """All texts, padded, in batches of each size."""
    rows = predictor.encode([text[0] if len(text) == 1 else tuple(text) for text in texts])
    if in_order:
        rows.sort(key=len)
    return [[predictor.pad(rows[i : i + size]) for i in range(0, len(rows), size)] for size in SIZES]


def _rate(predictor: Predictor, batches: list[Batch], seconds: float) -> float:
    """Texts per second of the bare session, over whole rounds of the texts, so that all sizes do the same work."""
    predictor.run(batches[-1])
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for batch in batches:
            count += len(predictor.run(batch))
    return count / (time.perf_counter() - start)


async def _asked(url: str, texts: Texts, options: argparse.Namespace) -> float:
    """Texts per second of the service."""
    async with Client(Load(url=url)) as client:
        bodies = client.bodies(texts)
        await loops.closed(client.ask, bodies, options.clients, 1.0)
        samples = await loops.closed(client.ask, bodies, options.clients, options.seconds)
    if failed := [sample.error for sample in samples if sample.error]:
        sys.exit(f"service: {len(failed)} of {len(samples)} requests failed, such as {failed[0]}")
    return len(samples) / max(sample.done for sample in samples)


@contextmanager
def _serving(folder: str, variant: str, threads: int) -> Iterator[str]:
    """The service in a process of its own; its address."""
    command = [sys.executable, "-m", "serving", folder, "--variant", variant, "--threads", str(threads), "--port", "0"]
    with NamedTemporaryFile(mode="w+") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            while not (found := re.search(r"http://[\d.:]+", Path(log.name).read_text())):
                if process.poll() is not None:
                    sys.exit(Path(log.name).read_text())
                time.sleep(0.1)
            yield found.group()
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
