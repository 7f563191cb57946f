"""What a step of `prune` costs over its floor, and what a cut costs.

The floor is one forward pass of the teacher and one forward and backward pass of the student on the same masked blocks,
with heads that answer at the masked tokens alone. Rounds are interleaved as in benchmarks.step.

    python -m benchmarks.prune_step                                         # BERT-base shape, batch 8, 128 tokens
    python -m benchmarks.prune_step --hidden 384 --layers 6 --heads 12 --batch 32 --threads 1
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from benchmarks.step import rounds_of, timed
from stages.distillation.capture import Batch, Capture, wanted
from stages.models.anatomy import Parts
from stages.models.heads import AskedHead
from stages.pruning.importance import Importance
from stages.pruning.masks import Masks
from stages.pruning.schedule import Widths
from stages.settings import Prune


def main() -> None:
    options = _options()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench = Bench(options, device)
    cases = {"floor": bench.floor, "all terms": bench.terms, "and scores and masks": bench.scored}
    rounds, memory = rounds_of(cases, options, device)
    threads = f"{torch.get_num_threads()} threads"
    shape = f"{options.layers} x {options.hidden}, batch ({options.batch}, {options.length})"
    print(f"\n{device.type}, {options.precision}, {shape}, {threads}, {options.rounds} rounds")
    for name in cases:
        ratios = sorted(each[name] / each["floor"] for each in rounds)
        low, middle, high = statistics.quantiles(ratios, n=4)
        ms = 1000 * statistics.median(each[name] for each in rounds)
        more = f"memory {memory[name] / memory['floor']:.2f}"
        print(f"{name:<22}{ms:>9.1f} ms {middle:>7.3f} ({low:.3f}-{high:.3f})  {more}")
    cut = statistics.median(timed(bench.cut, device) for _ in range(5))
    step = statistics.median(each["and scores and masks"] for each in rounds)
    every = Prune().every
    print(f"a cut {1000 * cut:.1f} ms, every {every} steps: {cut / every / step:.2%} of the time")


class Bench:
    """A teacher, a student pruned to three quarters, and a batch."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        config = BertConfig(
            hidden_size=options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            intermediate_size=4 * options.hidden,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.teacher = BertForMaskedLM(config).eval().requires_grad_(False).to(device)
        self.student = BertForMaskedLM(config).to(device)
        self.objectives = Prune().objectives.active()
        width = options.hidden
        self.learned = {
            name: nn.ModuleDict({"hidden": nn.Linear(width, width, bias=False)}).to(device)
            for name in ("hidden", "embedding")
        }
        self.masks = Masks(self.student).to(device)
        self.importance = Importance(self.student, "platon", (0.85, 0.95), seed=0).to(device)
        self.ids = torch.randint(1000, 30000, (options.batch, options.length), device=device)
        self.inputs = {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids)}
        self.asked = torch.rand(self.ids.shape, device=device) < 0.15
        self.widths = Widths(residual=3 * width // 4, neurons=3 * width)
        with self.floor() as step:  # gradients for the first scores
            step()
        self.importance.update()
        self.cut()

    def cut(self) -> None:
        self.masks.cut(self.importance.scores(1), self.widths, 1)
        self.masks.refresh()

    @contextmanager
    def floor(self) -> Iterator[Callable[[], None]]:
        heads = [AskedHead(self.teacher), AskedHead(self.student)]
        for head in heads:
            head.where = self.asked
        norms = [(norm, norm.there) for norm, _ in self.masks.norms]
        for norm, _ in norms:
            norm.there = None  # plain layer norms

        def step() -> None:
            with torch.inference_mode():
                self.teacher(**self.inputs)
            logits = self.student(**self.inputs).logits
            nn.functional.cross_entropy(logits.float(), self.ids[self.asked]).backward()

        yield step
        for norm, there in norms:
            norm.there = there
        for head in heads:
            head.close()

    @contextmanager
    def terms(self, then: Callable[[], None] | None = None) -> Iterator[Callable[[], None]]:
        heads = [AskedHead(self.teacher), AskedHead(self.student)]
        for head in heads:
            head.where = self.asked
        shape = Parts(self.student).shape
        pairs = {name: term.pairs(shape, shape) for name, term in self.objectives.items()}
        asked = wanted(self.objectives, pairs, "student")
        captures = Capture(self.student, asked), Capture(self.teacher, asked)
        rows = self.asked.nonzero()[:, 0]

        def step() -> None:
            batch = Batch(mask=self.inputs["attention_mask"].float(), labels=self.ids[self.asked], rows=rows)
            with torch.inference_mode():
                theirs = captures[1](self.teacher, self.inputs, asked)
            ours = captures[0](self.student, self.inputs, asked)
            terms = self.objectives.items()
            sum(term(ours, theirs, batch, self.learned.get(name)) for name, term in terms).backward()
            if then:
                then()

        yield step
        for part in (*captures, *heads):
            part.close()

    def scored(self):
        def then() -> None:
            self.importance.update()
            self.masks.apply_masks()

        return self.terms(then)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
