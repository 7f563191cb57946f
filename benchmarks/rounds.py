"""Training steps timed in turns: their ratio to a reference is taken within each round.

A shared machine's ups and downs slow all cases of a round alike and cancel; the median over the rounds is the figure.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)
Step = Callable[[], None]
Case = Callable[[], AbstractContextManager[Step]]
"""Makes a step ready, such as by hooks on models, and cleans up after it."""
WARM_UP_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Timings:
    """What the steps of all cases took."""

    seconds: list[dict[str, float]]
    """By round and case."""
    memory: dict[str, float]
    """Bytes, by case."""

    def median_ms(self, case: str) -> float:
        """Milliseconds, the median over the rounds."""
        return 1000 * statistics.median(taken[case] for taken in self.seconds)

    def ratio_quartiles(self, case: str, reference: str) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile over the rounds of the case's time over the reference's."""
        ratios = [taken[case] / taken[reference] for taken in self.seconds]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        return low, middle, high

    def memory_ratio(self, case: str, reference: str) -> float:
        """The case's memory over the reference's."""
        return self.memory[case] / self.memory[reference]


def set_up_torch(options: argparse.Namespace) -> torch.device:
    """Sets seed and threads; returns the device, a GPU if PyTorch has one."""
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def move_model(model: M, device: torch.device) -> M:
    """The model itself, on the device. (Transformers' own `to` hides its types.)"""
    model.to(device)
    return model


def time_cases(cases: Mapping[str, Case], options: argparse.Namespace, device: torch.device) -> Timings:
    """Times a step of every case in each of `--rounds`, in `--precision`; which case begins rotates."""
    seconds: list[dict[str, float]] = []
    memory: dict[str, float] = {}
    names = list(cases)
    for i in range(options.rounds + WARM_UP_ROUNDS):
        taken = dict.fromkeys(names, 0.0)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            half = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16")
            with half, cases[name]() as step:
                taken[name] = time_step(step, device)
                if i == 0:
                    memory[name] = measure_memory(step, device)
        if i >= WARM_UP_ROUNDS:
            seconds.append(taken)
    return Timings(seconds=seconds, memory=memory)


def time_step(step: Step, device: torch.device) -> float:
    """Seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_memory(step: Step, device: torch.device) -> float:
    """Bytes: on a GPU the peak of a step; on a CPU what the forward pass saves for the backward pass."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    sizes: dict[int, int] = {}

    def count(x: torch.Tensor) -> torch.Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        step()
    return sum(sizes.values())
