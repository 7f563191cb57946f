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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from operator import add

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from benchmarks.options import add_batch_options, add_model_options, add_timing_options, make_parser
from benchmarks.rounds import Case, Step, Timings, move_model, set_up_torch, time_cases, time_step
from stages.distillation.capture import Capture, measure_shape
from stages.distillation.schedule import list_aspects
from stages.lowrank.assemble import assemble_low_rank
from stages.lowrank.decompose import Statistics, decompose
from stages.models.anatomy import ModelParts
from stages.objectives import KL, AttentionKL, HiddenStates, Matrices, Objectives
from stages.objectives.base import value_at
from stages.objectives.inputs import Batch
from stages.settings import Distill

FLOOR = "floor"
LEVELS: dict[str, Objectives] = {
    "logits only": Objectives(kl=KL()),
    "layer level": Objectives(kl=KL(), attention_kl=AttentionKL(), hidden=HiddenStates()),
    "all terms": Distill().objectives,
    "all terms, local matrices": Distill().objectives.model_copy(update={"matrices": Matrices(mode="local")}),
}
EACH: dict[str, Objectives] = {
    name: Objectives.model_validate(
        {name: {"layers": "skip"} if name in ("relations", "hidden_cosine", "matrices") else {}}
    )
    for name in Objectives.model_fields
}
"""Every objective alone, at every layer where it is one of layers."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_options(arguments)
    device = set_up_torch(options)
    teacher, student = make_models(options, device)
    if options.padding:
        print(compare_padding(student, options, device))
        return
    cases = make_cases(teacher, student, EACH if options.each else LEVELS, options, device)
    timings = time_cases(cases, options, device)
    print(
        f"\n{device.type}, {options.precision}, {options.layers} x {options.hidden}, "
        f"batch {(options.batch, options.length)}, {torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    print(format_table(timings))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    add_batch_options(parser)
    parser.add_argument("--rank", type=int, default=256, help="rank of every matrix that it makes smaller")
    add_timing_options(parser)
    parser.add_argument("--each", action="store_true", help="every objective alone, in place of MaKD's levels")
    parser.add_argument("--padding", action="store_true", help="compare grouped lengths with padding to --length")
    return parser.parse_args(arguments)


def format_table(timings: Timings) -> str:
    """A row per case: milliseconds, time over the floor with its quartiles, memory over the floor."""
    lines = [f"{'step':<28}{'ms':>9}{'over the floor':>16}{'quartiles':>16}{'memory over the floor':>24}"]
    for name in timings.memory:
        low, middle, high = timings.ratio_quartiles(name, FLOOR)
        memory = f"{timings.memory_ratio(name, FLOOR):.3f}"
        lines.append(
            f"{name:<28}{timings.median_ms(name):>9.1f}{middle:>16.3f}{f'{low:.3f}-{high:.3f}':>16}{memory:>24}"
        )
    return "\n".join(lines)


def make_models(options: argparse.Namespace, device: torch.device) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A random teacher, and its low-rank student."""
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
    for name in ModelParts(teacher).list_matrix_names():
        weight = teacher.get_submodule(name).get_parameter("weight")
        if options.rank * sum(weight.shape) < weight.numel():
            moment = torch.eye(weight.shape[1], dtype=torch.float64)
            factors[name] = decompose(weight, "svd", Statistics(inputs=moment)).factors(options.rank)
    student = assemble_low_rank(teacher, factors).train()
    return move_model(teacher, device), move_model(student, device)


def make_cases(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    objectives: dict[str, Objectives],
    options: argparse.Namespace,
    device: torch.device,
) -> dict[str, Case]:
    """The floor, and a step with each set of objectives, on the same batch."""
    shape = (options.batch, options.length)
    inputs = {
        "input_ids": torch.randint(1000, 2000, shape, device=device),
        "attention_mask": torch.ones(shape, dtype=torch.long, device=device),
    }
    labels = torch.zeros(options.batch, dtype=torch.long, device=device)
    cases: dict[str, Case] = {FLOOR: partial(run_floor, teacher, student, inputs, labels)}
    return cases | {n: partial(run_distillation, teacher, student, inputs, labels, o) for n, o in objectives.items()}


@contextmanager
def run_floor(
    teacher: PreTrainedModel, student: PreTrainedModel, inputs: dict[str, Tensor], labels: Tensor
) -> Iterator[Step]:
    """Both models, compared by nothing."""

    def step() -> None:
        with torch.inference_mode():
            teacher(**inputs)
        student(**inputs, labels=labels).loss.backward()

    yield step


@contextmanager
def run_distillation(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    inputs: dict[str, Tensor],
    labels: Tensor,
    objectives: Objectives,
) -> Iterator[Step]:
    """The step, with its hooks on the models as long as it is used."""
    terms, shapes = objectives.active_terms(), (measure_shape(ModelParts(student)), measure_shape(ModelParts(teacher)))
    pairs = {name: term.layer_pairs(*shapes) for name, term in terms.items()}
    modules = {name: term.learned_modules(*shapes, [0, 1] * 2000) for name, term in terms.items()}
    learned = {name: module.to(labels.device) for name, module in modules.items() if module is not None}
    student_aspects, teacher_aspects = list_aspects(terms, pairs, "student"), list_aspects(terms, pairs, "teacher")
    student_capture, teacher_capture = Capture(student, student_aspects), Capture(teacher, teacher_aspects)
    index = torch.arange(len(labels), device=labels.device)

    def step() -> None:
        batch = Batch(mask=inputs["attention_mask"].float(), labels=labels, index=index)
        with torch.inference_mode():
            theirs = teacher_capture(teacher, inputs, teacher_aspects)
        ours = student_capture(student, inputs, student_aspects)
        losses = [value_at(t.weight, 0) * t(ours, theirs, batch, learned.get(name)) for name, t in terms.items()]
        reduce(add, losses).backward()

    yield step
    student_capture.close()
    teacher_capture.close()


def compare_padding(student: PreTrainedModel, options: argparse.Namespace, device: torch.device) -> str:
    """Tokens/s of training steps on lengths drawn like SST-2's: grouped by length, in random order, all padded."""
    draw = torch.Generator().manual_seed(0)
    lengths = (torch.empty(options.batch * 24).log_normal_(2.4, 0.6, generator=draw).int() + 3).clamp(4, 128).tolist()
    orders = {
        "padded to --length": [[options.length] * options.batch] * 24,
        "padded to the batch": split_batches(lengths, options.batch),
        "grouped by length": split_batches(sorted(lengths), options.batch),
    }
    speeds: dict[str, list[float]] = {name: [] for name in orders}
    for i in range(4):
        for name, groups in orders.items():
            steps = [make_training_step(student, len(group), max(group), device) for group in groups]
            seconds = sum(time_step(step, device) for step in steps)
            if i:  # the first round warms up
                speeds[name].append(sum(lengths) / seconds)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    reference = medians["padded to --length"]
    return "\n".join(
        f"{name:<22}{speed:>10.0f} real tokens/s {speed / reference:>6.2f}x" for name, speed in medians.items()
    )


def split_batches(lengths: list[int], size: int) -> list[list[int]]:
    """The lengths in their order, `size` at a time."""
    return [lengths[i : i + size] for i in range(0, len(lengths), size)]


def make_training_step(student: PreTrainedModel, batch: int, length: int, device: torch.device) -> Step:
    """Forward and backward pass on random tokens and labels."""
    ids = torch.randint(1000, 2000, (batch, length), device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    return lambda: student(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()


if __name__ == "__main__":
    main()
