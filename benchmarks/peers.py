"""How much faster a student is than its teacher, and than the same models run in other ways.

    python -m benchmarks.peers                                            # BERT-base shape
    python -m benchmarks.peers --hidden 384 --layers 6 --budgets 0.5      # MiniLM's
    python -m benchmarks.peers --rule speed                               # ranks allocated for speed
    python -m benchmarks.peers --peers eager compile plain openvino       # others; `pip install openvino`

Weights are random: they change no time. All models answer the same batches in one process, on one thread, in turns
(stages/timing); a figure is the reference's time over the model's within one round, median over the rounds.
References are the teacher as ONNX Runtime fuses it (`teacher, fused`) and the teacher after the same rewrites as its
students (`teacher, fp32`).

`eager` and `compile` are PyTorch's, `plain` the exporter's graph without any fusion, `openvino` the exported graphs in
OpenVINO: fp32, and int8 with static ranges (QDQ), which is its own form.
"""

import argparse
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from benchmarks.options import add_model_options, make_parser
from benchmarks.runners import PEERS, Runner, TracedModel, open_session
from stages.graph.quantize import to_int8
from stages.graph.rewrite import rewrite_graph
from stages.graph.trace import trace_classifier
from stages.lowrank.assemble import assemble_low_rank
from stages.lowrank.output_use import measure_output_use
from stages.lowrank.ranks import Matrix, allocate_ranks
from stages.models.anatomy import ModelParts
from stages.timing.rounds import Batch, Rounds, measure_speedup, summarize_latency, time_in_turns

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
VOCABULARY = 2000
REFERENCES = ["teacher, fused", "teacher, fp32"]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_options(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        models = {
            name: partial(prepare_run, runner) for name, runner in make_runners(options, options.graphs or Path(folder))
        }
    print(f"{options.layers} x {options.hidden}, one thread", flush=True)
    for length, size in product(options.lengths, options.batches):
        rounds = time_in_turns(models, make_draw(length, size), options.seconds)
        print(f"\n{format_table(rounds, length, size)}", flush=True)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--rule", choices=["ratio", "global", "speed"], default="ratio", help="factorize.rank_rule")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--lengths", nargs="+", default=["real", "16", "128"], help="real: as SST-2's are distributed")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each model and cell")
    parser.add_argument("--graphs", type=Path, help="folder for traced graphs, which the next run takes from there")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=[])
    return parser.parse_args(arguments)


def make_runners(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Runner]]:
    """Everything that is timed, by name; sessions outlive the folder."""
    teacher = make_teacher(options)
    students = {f"student {budget:g}": make_student(teacher, budget, options.rule) for budget in options.budgets}
    for name, model in {"teacher": teacher, **students}.items():
        stem = f"{options.layers}x{options.hidden} {options.rule} {name}"
        traced, fp32, int8 = (folder / f"{stem} {kind}.onnx" for kind in ("traced", "fp32", "int8"))
        if not traced.is_file():
            trace_classifier(model, INPUTS, traced)
        shutil.copy(traced, fp32)
        rewrite_graph(fp32)
        calibration = draw_calibration()
        to_int8(fp32, int8, calibration)
        if name == "teacher":
            yield REFERENCES[0], open_session(traced)
        yield f"{name}, fp32", open_session(fp32)
        yield f"{name}, int8", open_session(int8)
        whole = TracedModel(model=model, traced=traced, rewritten=fp32, calibration=calibration)
        for peer in options.peers:
            yield from ((f"{name}, {way}", runner) for way, runner in PEERS[peer](whole))


def make_teacher(options: argparse.Namespace) -> PreTrainedModel:
    """A BERT with random weights."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=12,
        intermediate_size=4 * options.hidden,
    )
    teacher = BertForSequenceClassification(config).eval()
    for name, bias in teacher.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(bias, std=0.02)  # equal ones would be merged
    return teacher


def make_student(teacher: PreTrainedModel, budget: float, rule: str) -> PreTrainedModel:
    """A low-rank copy with random factors, ranks as `factorize.rank_rule` allocates them.

    All matrices are taken to have the same spectrum, which falls as MiniLM's do after whitening: rank r of n explains
    in proportion to exp(-12 r / n).
    """
    parts = ModelParts(teacher)
    shapes = {name: teacher.get_submodule(name).get_parameter("weight").shape for name in parts.list_matrix_names()}
    use = measure_output_use(teacher, list(shapes))
    matrices = [
        Matrix(name=name, outputs=out, inputs=into, energy=make_spectrum(min(out, into)), output_use=use[name])
        for name, (out, into) in shapes.items()
    ]
    whole = parts.count_layer_parameters()
    room = int(budget * whole) - (whole - parts.count_matrix_parameters())
    ranks = allocate_ranks(matrices, room, rule, 16)
    factors = {
        name: (0.1 * torch.randn(out, rank), 0.1 * torch.randn(rank, into))
        for name, (out, into) in shapes.items()
        if (rank := ranks[name])
    }
    return assemble_low_rank(teacher, factors)


def make_spectrum(ranks: int) -> list[float]:
    """Shares of the energy, falling."""
    falling = np.exp(-12 * np.arange(ranks) / ranks)
    return (falling / falling.sum()).tolist()


def draw_calibration() -> list[Batch]:
    """Batches to calibrate with."""
    draw = make_draw("24", 1)
    return [draw() for _ in range(4)]


def make_draw(length: str, size: int) -> Callable[[], Batch]:
    """Draws new random batches (size, tokens) at each call, padded to the longest where lengths are drawn."""
    rng = np.random.default_rng(0)

    def draw() -> Batch:
        lengths = np.full(size, int(length)) if length != "real" else draw_lengths(rng, size)
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = rng.integers(5, VOCABULARY, mask.shape)
        return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}

    return draw


def draw_lengths(rng: np.random.Generator, size: int) -> np.ndarray:
    """As SST-2's are distributed."""
    return np.clip(rng.lognormal(3.02, 0.52, size).astype(int) + 2, 4, 66)


def prepare_run(runner: Runner, batch: Batch) -> tuple[Callable[[], Any], int]:
    """What is timed, and how many units of work that is."""
    return partial(runner, batch), 1


def format_table(rounds: Rounds, length: str, size: int) -> str:
    """A row per model: milliseconds a batch (p50), and how many times as fast as each reference."""
    rows = [
        [
            name,
            f"{summarize_latency(times, size)['p50_ms']:.1f}",
            *(f"{measure_speedup(rounds, reference, name):.2f}" for reference in REFERENCES),
        ]
        for name, times in rounds.items()
    ]
    load = f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores, {len(rounds[REFERENCES[0]])} rounds"
    heads = [f"{size} x {length} tokens ({load})", "ms", *(f"against {reference}" for reference in REFERENCES)]
    return tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
