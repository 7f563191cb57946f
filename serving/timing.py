"""Models timed against each other in one process, so that a busy machine slows all of them alike.

They take turns: each round draws new batches, every model runs them, and who begins rotates. The figure that counts
is the ratio of two models' times within one round, median over the rounds. Tokenizing, the same for all, is not timed.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.settings import BadInput, Benchmark

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Encoding

    from serving.opening import Model
    from serving.predictor import Predictor

Batch = dict[str, "np.ndarray"]
Prepare = Callable[[Batch], tuple[Callable[[], Any], int]]
"""Makes a batch ready for a model: what is to be timed, and how many units of work that does."""
Rounds = dict[str, list[list[float]]]
"""Seconds a unit of every run, by model and round."""
RUNS_PER_ROUND = 8


def opened(settings: Benchmark, folder: Path, variant: str) -> "Model":
    """A model as it is to be timed: `benchmark.threads` that do not spin, on `benchmark.provider`.

    Raises:
        BadInput: the provider is not there, or the folder is not what export writes.
    """
    from serving.folder import ModelError
    from serving.opening import open_model

    try:
        return open_model(folder, variant, threads=settings.threads, provider=settings.provider)
    except ModelError as error:
        raise BadInput(f"benchmark: {error}") from error


def check_length(setting: str, length: str | int, most: int) -> None:
    """Refuses what cannot be timed.

    Args:
        most: tokens that a text may have.

    Raises:
        BadInput: the length is above that.
    """
    if length != "real" and not 2 <= length <= most:
        raise BadInput(f"{setting} {length}, but this model reads 2 to {most} tokens when timed")


def encoded(data: Path, predictor: "Predictor") -> list["Encoding"]:
    """The validation split's texts (or pairs) as the predictor tokenizes them."""
    from stages.tasks.splits import read_split

    rows = read_split(data, "validation")
    pairs = "text_pair" in rows.column_names
    return predictor.encode(list(zip(rows["text"], rows["text_pair"], strict=True)) if pairs else list(rows["text"]))


def drawer(
    predictor: "Predictor", sentences: list["Encoding"], length: str | int, size: int, seed: int
) -> Callable[[], Batch]:
    """What gives a new batch (size, tokens) at each call; the same sequence for the same seed.

    Args:
        length: `real` (sentences drawn, padded to the longest of the batch), or the tokens of every row.
    """
    import numpy as np

    rng = np.random.default_rng(seed)

    def draw() -> Batch:
        rows = [sentences[i] for i in rng.integers(len(sentences), size=size)]
        if length == "real":
            return predictor.pad(rows)
        ids = np.resize(np.concatenate([row.ids for row in rows]), (size, length))
        whole = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return {name: whole[name] for name in predictor.inputs}

    return draw


def take_turns(models: dict[str, Prepare], draw: Callable[[], Batch], seconds: float) -> Rounds:
    """Runs all models in turn: at least three rounds, `seconds` a model in all."""
    start = time.perf_counter()
    for prepare in models.values():  # warms up, too
        for _ in range(3):
            _time(prepare, draw())
    each = (time.perf_counter() - start) / (3 * len(models))
    runs = int(min(RUNS_PER_ROUND, max(1, seconds / 5 / each)))
    rounds: Rounds = {who: [] for who in models}
    order, start = list(models), time.perf_counter()
    while len(rounds[order[0]]) < 3 or time.perf_counter() - start < seconds * len(models):
        batches = [draw() for _ in range(runs)]
        for who in order:
            rounds[who].append([_time(models[who], batch) for batch in batches])
        order = order[1:] + order[:1]
    return rounds


def _time(prepare: Prepare, batch: Batch) -> float:
    """Seconds a unit of work."""
    run, units = prepare(batch)
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / units


def latency(rounds: list[list[float]], size: int) -> dict[str, Any]:
    """Percentiles of one model's runs in milliseconds a unit, sentences (or tokens) per second, and the number of runs.

    Args:
        size: what a unit of work holds of them.
    """
    import numpy as np

    times = 1000 * np.concatenate(rounds)
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "per_second": 1000 * size * len(times) / float(times.sum()),
        "runs": len(times),
    }


def speed_up(rounds: Rounds, slow: str, fast: str) -> float:
    """Median over the rounds of `slow`'s time / `fast`'s time on the same batches; above 1 `fast` is faster."""
    import numpy as np

    pairs = zip(rounds[slow], rounds[fast], strict=True)
    return float(np.median([sum(one) / sum(other) for one, other in pairs]))
