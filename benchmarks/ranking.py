"""What `ranking` costs over `kl`: of the objectives alone, and of a whole training step of a causal model.

The baseline is the same objective with an isotonic regression that loops over rows in Python, as the package does that
RLKD's authors used. Rounds are interleaved and ratios are taken within each round; the median is the figure.

    python -m benchmarks.ranking                                  # vocabularies of 512, 50,000 and 150,000
    python -m benchmarks.ranking --tokens 4096 --hidden 2048 --layers 16 --precision bfloat16
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.options import add_model_options, add_timing_options, make_parser
from benchmarks.rounds import Step, Timings, move_model, set_up_torch, time_cases
from stages.objectives import KL, Objective, Ranking
from stages.objectives.base import value_at
from stages.objectives.inputs import Batch, Captured

SEQUENCE = 64
"""Tokens of each sequence."""


class RowByRowIsotonic(torch.autograd.Function):
    """The baseline, which the project does not use: each row's isotonic regression, and its gradient, in turn."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        fits = [isotonic_regression(row, increasing=False) for row in y.detach().double().cpu().numpy()]
        ctx.blocks = [fit.blocks for fit in fits]
        return torch.from_numpy(np.stack([fit.x for fit in fits])).to(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rows = gradient.double().cpu().numpy()
        means = [
            np.repeat(np.add.reduceat(row, starts[:-1]) / np.diff(starts), np.diff(starts))
            for row, starts in zip(rows, ctx.blocks, strict=True)
        ]
        return torch.from_numpy(np.stack(means)).to(gradient)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A sum of objectives."""

    terms: list[Objective]
    patch: Callable[[], AbstractContextManager[Any]] = nullcontext
    """In which it is computed."""

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Shapes: logits (rows, classes), all of one example."""
        rows = torch.zeros(len(student), dtype=torch.long, device=student.device)
        batch = Batch(mask=student.new_ones(1, 1), labels=rows, rows=rows)
        # at the prediction level nothing else of a model is read
        ours, theirs = (cast(Captured, SimpleNamespace(logits=logits)) for logits in (student, teacher))
        return reduce(add, [value_at(term.weight, 0) * term(ours, theirs, batch) for term in self.terms])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_options(arguments)
    device = set_up_torch(options)
    losses = make_losses(options.k)
    print(
        f"{device.type}, {options.precision}, {options.tokens} tokens, k {options.k}, {options.layers} x "
        f"{options.hidden}, {torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    print(f"{'vocabulary':>10}  {'':<26}{'objectives, ms':>16}{'over kl':>16}{'step, ms':>12}{'over kl':>10}")
    for vocabulary in options.vocabularies:
        alone, training = (
            time_cases({name: partial(case, loss) for name, loss in losses.items()}, options, device)
            for case in (make_loss_case(vocabulary, options, device), make_training_case(vocabulary, options, device))
        )
        for name in losses:
            print(format_row(vocabulary, name, alone, training), flush=True)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = make_parser(__doc__)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[512, 50_000, 150_000])
    parser.add_argument("--tokens", type=int, default=256, help=f"tokens that count, in sequences of {SEQUENCE}")
    parser.add_argument("--k", type=int, default=10)
    add_model_options(parser, hidden=256, layers=4)
    add_timing_options(parser)
    return parser.parse_args(arguments)


def make_losses(k: int) -> dict[str, Loss]:
    """`kl`, and with `ranking` in several forms."""
    kl, ranking = KL(temperature=1.0), Ranking(k=k)
    row_by_row = partial(patch, "stages.objectives.soft_rank.isotonic_regression", RowByRowIsotonic.apply)
    return {
        "kl": Loss(terms=[kl]),
        "kl + ranking": Loss(terms=[kl, ranking]),
        "kl + ranking, dynamic": Loss(terms=[kl.model_copy(update={"overlap": k}), ranking]),
        "kl + ranking, row by row": Loss(terms=[kl, ranking], patch=row_by_row),
    }


def format_row(vocabulary: int, name: str, alone: Timings, training: Timings) -> str:
    """Milliseconds and the ratio to `kl`: of the objectives alone, and of a training step."""
    (_, ratio, _), (_, step_ratio, _) = (timings.ratio_quartiles(name, "kl") for timings in (alone, training))
    return (
        f"{vocabulary:>10}  {name:<26}{alone.median_ms(name):>16.2f}{ratio:>15.3f}x"
        f"{training.median_ms(name):>12.1f}{100 * (step_ratio - 1):>+8.2f} %"
    )


def make_loss_case(
    vocabulary: int, options: argparse.Namespace, device: torch.device
) -> Callable[[Loss], AbstractContextManager[Step]]:
    """Objectives and their gradient, on logits of normal numbers."""
    dtype = getattr(torch, options.precision)
    teacher = 3 * torch.randn(options.tokens, vocabulary, device=device, dtype=dtype)
    student = (teacher + torch.randn_like(teacher)).requires_grad_()

    @contextmanager
    def run_loss(loss: Loss) -> Iterator[Step]:
        def step() -> None:
            torch.autograd.grad(loss.compute(student, teacher), student)

        with loss.patch():
            yield step

    return run_loss


def make_training_case(
    vocabulary: int, options: argparse.Namespace, device: torch.device
) -> Callable[[Loss], AbstractContextManager[Step]]:
    """The teacher's forward pass, the student's forward and backward pass, of random models of one shape."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64 or 1,
    )
    teacher, student = (move_model(LlamaForCausalLM(config), device) for _ in range(2))
    ids = torch.randint(vocabulary, (options.tokens // SEQUENCE, SEQUENCE), device=device)

    @contextmanager
    def run_training(loss: Loss) -> Iterator[Step]:
        def step() -> None:
            with torch.inference_mode():
                theirs = teacher(input_ids=ids).logits
            loss.compute(student(input_ids=ids).logits.flatten(0, 1), theirs.flatten(0, 1)).backward()

        with loss.patch():
            yield step

    return run_training


if __name__ == "__main__":
    main()
