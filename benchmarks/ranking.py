"""What `ranking` costs over `kl`: of the objectives alone, and of a whole training step of a causal model.

The rival is the same objective with an isotonic regression that loops over rows in Python, as the package does that
RLKD's authors used. Rounds are interleaved and ratios are taken within each round; the median is the figure.

    python -m benchmarks.ranking                                  # vocabularies of 512, 50,000 and 150,000
    python -m benchmarks.ranking --tokens 4096 --hidden 2048 --layers 16 --precision bfloat16
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.step import rounds_of
from stages.distillation.capture import Batch, Captured
from stages.distillation.objectives import KL, Objective, Ranking


class Rival(torch.autograd.Function):
    """THE RIVAL, not ours: every row's isotonic regression, and its gradient, one after the other."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        found = [isotonic_regression(row, increasing=False) for row in y.detach().double().cpu().numpy()]
        ctx.blocks = [each.blocks for each in found]
        return torch.from_numpy(np.stack([each.x for each in found])).to(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rows = gradient.double().cpu().numpy()
        means = [
            np.repeat(np.add.reduceat(row, at[:-1]) / np.diff(at), np.diff(at))
            for row, at in zip(rows, ctx.blocks, strict=True)
        ]
        return torch.from_numpy(np.stack(means)).to(gradient)


def main() -> None:
    options = _options()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.threads:
        torch.set_num_threads(options.threads)
    kl, ranking = KL(temperature=1.0), Ranking(k=options.k)
    ways: dict[str, tuple[list[Objective], Any]] = {
        "kl": ([kl], nullcontext),
        "kl + ranking": ([kl, ranking], nullcontext),
        "kl + ranking, dynamic": ([kl.model_copy(update={"overlap": options.k}), ranking], nullcontext),
        "kl + ranking, row by row": ([kl, ranking], partial(patch, "stages.distillation.ranks.isotonic", Rival.apply)),
    }
    print(
        f"{device.type}, {options.precision}, {options.tokens} tokens, k {options.k}, {options.layers} x "
        f"{options.hidden}, {torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    print(f"{'vocabulary':>10}  {'':<26}{'objectives, ms':>16}{'over kl':>16}{'step, ms':>12}{'over kl':>10}")
    for vocabulary in options.vocabularies:
        alone, step = (
            rounds_of({name: partial(case, *way) for name, way in ways.items()}, options, device)[0]
            for case in (_alone(vocabulary, options, device), _training(vocabulary, options, device))
        )
        for name in ways:
            (ms, ratio), (step_ms, more) = (_medians(rounds, name) for rounds in (alone, step))
            print(
                f"{vocabulary:>10}  {name:<26}{ms:>16.2f}{ratio:>15.3f}x{step_ms:>12.1f}{100 * (more - 1):>+8.2f} %",
                flush=True,
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[512, 50_000, 150_000])
    parser.add_argument("--tokens", type=int, default=256, help="tokens that count, in sequences of 64")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    return parser.parse_args()


def _medians(rounds: list[dict[str, float]], name: str) -> tuple[float, float]:
    """Milliseconds, and the ratio to `kl` within a round."""
    return 1000 * statistics.median(r[name] for r in rounds), statistics.median(r[name] / r["kl"] for r in rounds)


def _alone(vocabulary: int, options: argparse.Namespace, device: torch.device) -> Callable:
    """Objectives and their gradient, on logits that are there."""
    dtype = getattr(torch, options.precision)
    teacher = 3 * torch.randn(options.tokens, vocabulary, device=device, dtype=dtype)
    student = (teacher + torch.randn_like(teacher)).requires_grad_()

    @contextmanager
    def case(terms: list[Objective], patched: Any) -> Iterator[Callable[[], None]]:
        with patched():
            yield lambda: torch.autograd.grad(_loss(terms, student, teacher), student)

    return case


def _training(vocabulary: int, options: argparse.Namespace, device: torch.device) -> Callable:
    """The teacher's forward pass, the student's forward and backward pass, of random models of one shape."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64 or 1,
    )
    teacher, student = (LlamaForCausalLM(config).to(device) for _ in range(2))
    ids = torch.randint(vocabulary, (options.tokens // 64, 64), device=device)

    @contextmanager
    def case(terms: list[Objective], patched: Any) -> Iterator[Callable[[], None]]:
        def step() -> None:
            with torch.inference_mode():
                theirs = teacher(input_ids=ids).logits
            _loss(terms, student(input_ids=ids).logits.flatten(0, 1), theirs.flatten(0, 1)).backward()

        with patched():
            yield step

    return case


def _loss(terms: list[Objective], student: Tensor, teacher: Tensor) -> Tensor:
    batch = Batch(mask=student.new_ones(1, 1), labels=None, rows=torch.zeros_like(student[:, 0], dtype=torch.long))
    ours, theirs = (Captured(None, logits, {}) for logits in (student, teacher))
    return sum(term.weight * term(ours, theirs, batch) for term in terms)


if __name__ == "__main__":
    main()
