"""What a step of `prune` costs over its floor, and what a cut costs.

The floor is one forward pass of the teacher and one forward and backward pass of the student on the same masked blocks,
with the head applied at the masked tokens alone. Rounds are interleaved as in benchmarks.step.

    python -m benchmarks.prune_step                                         # BERT-base shape, batch 8, 128 tokens
    python -m benchmarks.prune_step --hidden 384 --layers 6 --heads 12 --batch 32 --threads 1
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import add

import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from benchmarks.options import add_batch_options, add_model_options, add_timing_options, make_parser
from benchmarks.rounds import Case, Step, Timings, move_model, set_up_torch, time_cases, time_step
from stages.distillation.capture import Capture, measure_shape
from stages.distillation.schedule import list_aspects
from stages.models.anatomy import ModelParts
from stages.models.selective_head import SelectiveLMHead
from stages.objectives.inputs import Batch
from stages.pruning.importance import Importance
from stages.pruning.masks import PruningMasks
from stages.pruning.schedule import Widths
from stages.settings import Prune

FLOOR, WHOLE_STEP = "floor", "and scores and masks"
CUTS = 5
"""How many cuts are timed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_options(arguments)
    device = set_up_torch(options)
    pruning = PruningSteps(options, device)
    cases: dict[str, Case] = {
        FLOOR: pruning.run_floor,
        "all terms": pruning.run_distillation,
        WHOLE_STEP: pruning.run_pruning,
    }
    timings = time_cases(cases, options, device)
    threads = f"{torch.get_num_threads()} threads"
    shape = f"{options.layers} x {options.hidden}, batch ({options.batch}, {options.length})"
    print(f"\n{device.type}, {options.precision}, {shape}, {threads}, {options.rounds} rounds")
    print(format_table(timings))
    cut_ms = 1000 * statistics.median(time_step(pruning.cut, device) for _ in range(CUTS))
    print(format_cut(cut_ms, timings.median_ms(WHOLE_STEP)))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    parser.add_argument("--heads", type=int, default=12)
    add_batch_options(parser)
    add_timing_options(parser)
    return parser.parse_args(arguments)


def format_table(timings: Timings) -> str:
    """A row per case: milliseconds, time over the floor with its quartiles, memory over the floor."""
    lines = []
    for name in timings.memory:
        low, middle, high = timings.ratio_quartiles(name, FLOOR)
        memory = f"memory {timings.memory_ratio(name, FLOOR):.2f}"
        lines.append(f"{name:<22}{timings.median_ms(name):>9.1f} ms {middle:>7.3f} ({low:.3f}-{high:.3f})  {memory}")
    return "\n".join(lines)


def format_cut(cut_ms: float, step_ms: float) -> str:
    """A cut's time, and its share of the training's."""
    every = Prune().every
    return f"a cut {cut_ms:.1f} ms, every {every} steps: {cut_ms / every / step_ms:.2%} of the time"


class PruningSteps:
    """A teacher, a student pruned to three quarters, and a batch; the steps that are timed on them."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        config = BertConfig(
            hidden_size=options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            intermediate_size=4 * options.hidden,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.teacher = move_model(BertForMaskedLM(config).eval().requires_grad_(False), device)
        self.student = move_model(BertForMaskedLM(config), device)
        self.objectives = Prune().objectives.active_terms()
        width = options.hidden
        self.learned = {
            name: nn.ModuleDict({"hidden": nn.Linear(width, width, bias=False)}).to(device)
            for name in ("hidden", "embedding")
        }
        self.masks = PruningMasks(self.student).to(device)
        self.importance = Importance(self.student, "platon", (0.85, 0.95), seed=0).to(device)
        self.ids = torch.randint(1000, 30000, (options.batch, options.length), device=device)
        self.inputs = {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids)}
        self.masked = torch.rand(self.ids.shape, device=device) < 0.15
        self.widths = Widths(residual=3 * width // 4, neurons=3 * width)
        with self.run_floor() as step:  # gradients for the first scores
            step()
        self.importance.accumulate()
        self.cut()

    def cut(self) -> None:
        """Removes dimensions down to the widths."""
        self.masks.remove_dimensions(self.importance.compute_scores(1), self.widths, 1)
        self.masks.update_norms()

    @contextmanager
    def run_floor(self) -> Iterator[Step]:
        """Both models on the same masked blocks, with plain layer norms."""
        norms = [(norm, norm.remains) for norm, _ in self.masks.norms]
        for norm, _ in norms:
            norm.remains = None

        def step() -> None:
            with torch.inference_mode():
                self.teacher(**self.inputs)
            logits = self.student(**self.inputs).logits
            nn.functional.cross_entropy(logits.float(), self.ids[self.masked]).backward()

        with self.predict_masked():
            yield step
        for norm, remains in norms:
            norm.remains = remains

    @contextmanager
    def run_distillation(self) -> Iterator[Step]:
        """All terms of the objectives."""
        shape = measure_shape(ModelParts(self.student))
        terms = self.objectives
        pairs = {name: term.layer_pairs(shape, shape) for name, term in terms.items()}
        aspects = list_aspects(terms, pairs, "student")  # the teacher's are the same: its layers are as many
        student, teacher = Capture(self.student, aspects), Capture(self.teacher, aspects)
        rows = self.masked.nonzero()[:, 0]

        def step() -> None:
            batch = Batch(mask=self.inputs["attention_mask"].float(), labels=self.ids[self.masked], rows=rows)
            with torch.inference_mode():
                theirs = teacher(self.teacher, self.inputs, aspects)
            ours = student(self.student, self.inputs, aspects)
            losses = [term(ours, theirs, batch, self.learned.get(name)) for name, term in terms.items()]
            reduce(add, losses).backward()

        with self.predict_masked():
            yield step
        student.close()
        teacher.close()

    @contextmanager
    def run_pruning(self) -> Iterator[Step]:
        """All terms, then the importance scores and the masks."""
        with self.run_distillation() as distill:

            def step() -> None:
                distill()
                self.importance.accumulate()
                self.masks.apply_masks()

            yield step

    @contextmanager
    def predict_masked(self) -> Iterator[None]:
        """Applies both models' heads at the masked tokens alone."""
        heads = [SelectiveLMHead(self.teacher), SelectiveLMHead(self.student)]
        for head in heads:
            head.positions = self.masked
        yield
        for head in heads:
            head.close()


if __name__ == "__main__":
    main()
