"""What a distillation step costs over its floor.

The floor is one forward pass of the teacher and one forward and backward pass of the student on the same batch, in
the same precision: nothing that compares the two can cost less. Rounds are interleaved and the ratio is taken within
each round, so that a shared machine's ups and downs cancel; the median over rounds is the figure.

    python -m benchmarks.step                                # BERT-base shape, batch 8, 128 tokens
    python -m benchmarks.step --hidden 384 --layers 6 --batch 32
    python -m benchmarks.step --each                         # every objective alone
    python -m benchmarks.step --padding                      # tokens/s: grouped lengths against padding to 128
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from transformers import BertConfig, BertForSequenceClassification

from stages.distillation.capture import Batch, Capture, wanted
from stages.distillation.objectives import Objectives
from stages.distillation.objectives.base import at
from stages.lowrank.decompose import Statistics, decompose
from stages.lowrank.modeling import assemble
from stages.models.anatomy import Parts


def _only(**terms: dict) -> Objectives:
    return Objectives(**dict.fromkeys(Objectives.model_fields) | terms)


LEVELS: dict[str, Objectives] = {
    "logits only": _only(kl={}),
    "layer level": _only(kl={}, attention_kl={}, hidden={}),
    "all terms": Objectives(),
    "all terms, local matrices": Objectives(matrices={"mode": "local"}),
}
EACH: dict[str, Objectives] = {
    name: _only(**{name: {"layers": "skip"} if name in ("relations", "hidden_cosine", "matrices") else {}})
    for name in Objectives.model_fields
}
"""Every objective alone, at every layer where it is one of layers."""


def main() -> None:
    options = _options()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.threads:
        torch.set_num_threads(options.threads)
    teacher, student = _models(options, device)
    if options.padding:
        return _padding(student, options, device)
    shape = (options.batch, options.length)
    inputs = {
        "input_ids": torch.randint(1000, 2000, shape, device=device),
        "attention_mask": torch.ones(shape, dtype=torch.long, device=device),
    }
    labels = torch.zeros(options.batch, dtype=torch.long, device=device)
    objectives = EACH if options.each else LEVELS
    cases = {
        name: partial(_distillation, teacher, student, inputs, labels, terms) for name, terms in objectives.items()
    }
    rounds, memory = rounds_of({"floor": partial(_floor, teacher, student, inputs, labels)} | cases, options, device)
    print(
        f"\n{device.type}, {options.precision}, {options.layers} x {options.hidden}, batch {shape}, "
        f"{torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    print(f"{'step':<28}{'ms':>9}{'over the floor':>16}{'quartiles':>16}{'memory over the floor':>24}")
    for name in rounds[0]:
        ratios = sorted(r[name] / r["floor"] for r in rounds)
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        ms = 1000 * statistics.median(r[name] for r in rounds)
        more = f"{memory[name] / memory['floor']:.3f}"
        print(f"{name:<28}{ms:>9.1f}{middle:>16.3f}{f'{low:.3f}-{high:.3f}':>16}{more:>24}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rank", type=int, default=256, help="rank of every matrix that it makes smaller")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--each", action="store_true", help="every objective alone, in place of MaKD's levels")
    parser.add_argument("--padding", action="store_true", help="compare grouped lengths with padding to --length")
    return parser.parse_args()


def _models(options: argparse.Namespace, device: torch.device):
    config = BertConfig(
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64 or 1,
        intermediate_size=4 * options.hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    teacher = BertForSequenceClassification(config).eval().requires_grad_(False)
    factors = {}
    for name in Parts(teacher).matrix_names():
        weight = teacher.get_submodule(name).weight
        if options.rank * sum(weight.shape) < weight.numel():
            moment = torch.eye(weight.shape[1], dtype=torch.float64)
            factors[name] = decompose(weight, "svd", Statistics(inputs=moment)).factors(options.rank)
    student = assemble(teacher, factors).train()
    return teacher.to(device), student.to(device)


@contextmanager
def _floor(teacher, student, inputs, labels) -> Iterator[Callable[[], None]]:
    def step() -> None:
        with torch.inference_mode():
            teacher(**inputs)
        student(**inputs, labels=labels).loss.backward()

    yield step


@contextmanager
def _distillation(teacher, student, inputs, labels, objectives: Objectives) -> Iterator[Callable[[], None]]:
    """The step, with its hooks on the models as long as it is used."""
    terms, shapes = objectives.active(), (Parts(student).shape, Parts(teacher).shape)
    pairs = {name: term.pairs(*shapes) for name, term in terms.items()}
    learned = {name: term.learned(*shapes, [0, 1] * 2000) for name, term in terms.items()}
    learned = {name: module.to(labels.device) for name, module in learned.items() if module is not None}
    of_student, of_teacher = (wanted(terms, pairs, side) for side in ("student", "teacher"))
    captures = Capture(student, of_student), Capture(teacher, of_teacher)
    index = torch.arange(len(labels), device=labels.device)

    def step() -> None:
        batch = Batch(mask=inputs["attention_mask"].float(), labels=labels, index=index)
        with torch.inference_mode():
            theirs = captures[1](teacher, inputs, of_teacher)
        ours = captures[0](student, inputs, of_student)
        sum(at(t.weight, 0) * t(ours, theirs, batch, learned.get(name)) for name, t in terms.items()).backward()

    yield step
    for capture in captures:
        capture.close()


def rounds_of(cases: dict[str, Callable], options, device) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Seconds of every case in every round, and the bytes that it takes."""
    rounds, memory, names = [], {}, list(cases)
    for i in range(options.rounds + 2):
        taken = dict.fromkeys(names, 0.0)
        for name in names[i % len(names) :] + names[: i % len(names)]:  # who begins rotates
            half = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16")
            with half, cases[name]() as step:
                taken[name] = timed(step, device)
                if i == 0:
                    memory[name] = _bytes(step, device)
        if i >= 2:  # the first two warm up
            rounds.append(taken)
    return rounds, memory


def _bytes(step: Callable[[], None], device: torch.device) -> float:
    """On a GPU the peak of a step; on a CPU what the student's forward pass keeps for its backward pass."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        step()
    return sum(kept.values())


def timed(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _padding(student, options, device) -> None:
    """Tokens/s of training steps on lengths drawn like SST-2's: grouped by length, in random order, all padded."""
    draw = torch.Generator().manual_seed(0)
    lengths = (torch.empty(options.batch * 24).log_normal_(2.4, 0.6, generator=draw).int() + 3).clamp(4, 128).tolist()
    ways = {
        "padded to --length": [[options.length] * options.batch] * 24,
        "padded to the batch": list(_batches(lengths, options.batch)),
        "grouped by length": list(_batches(sorted(lengths), options.batch)),
    }
    speed: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(4):
        for name, groups in ways.items():
            seconds = sum(timed(_plain(student, len(group), max(group), device), device) for group in groups)
            if i:
                speed[name].append(sum(lengths) / seconds)
    base = statistics.median(speed["padded to --length"])
    for name, values in speed.items():
        print(f"{name:<22}{statistics.median(values):>10.0f} real tokens/s {statistics.median(values) / base:>6.2f}x")


def _batches(lengths: list[int], size: int) -> Iterator[list[int]]:
    return (lengths[i : i + size] for i in range(0, len(lengths), size))


def _plain(student, batch: int, length: int, device) -> Callable[[], None]:
    ids = torch.randint(1000, 2000, (batch, length), device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    return lambda: student(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()


if __name__ == "__main__":
    main()
