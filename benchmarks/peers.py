"""How much faster a student is than its teacher, and than the same models run in other ways.

    python -m benchmarks.peers                                            # BERT-base shape
    python -m benchmarks.peers --hidden 384 --layers 6 --budgets 0.5      # MiniLM's
    python -m benchmarks.peers --rule speed                               # ranks dealt out for speed
    python -m benchmarks.peers --peers eager compile plain openvino       # others; `pip install openvino`

Weights are random: they change no time. All models answer the same batches in one process, on one thread, in turns
(serving/timing.py); a figure is the reference's time over the model's within one round, median over the rounds.
References are the teacher as ONNX Runtime fuses it (`teacher, fused`) and the teacher after the same rewrites as its
students (`teacher, fp32`).

`eager` and `compile` are PyTorch's, `plain` the exporter's graph without any fusion, `openvino` the exported graphs in
OpenVINO: fp32, and int8 with static ranges (QDQ), as it wants them.
"""

import argparse
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from tabulate import tabulate
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from serving.timing import Batch, Rounds, latency, speed_up, take_turns
from stages.graph.quantize import to_int8
from stages.graph.rewrite import rewrite
from stages.graph.trace import quiet, trace
from stages.lowrank.modeling import assemble
from stages.lowrank.ranks import Matrix, allocate
from stages.lowrank.reach import reach
from stages.models.anatomy import Parts

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
WORDS = 2000
REFERENCES = ["teacher, fused", "teacher, fp32"]
Model = Callable[[Batch], Any]


def main() -> None:
    options = _options()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        models = {name: partial(_prepare, model) for name, model in _models(options, options.graphs or Path(folder))}
    print(f"{options.layers} x {options.hidden}, one thread", flush=True)
    for length, size in product(options.lengths, options.batches):
        rounds = take_turns(models, _drawer(length, size), options.seconds)
        print(f"\n{_table(rounds, length, size)}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--rule", choices=["ratio", "global", "speed"], default="ratio", help="factorize.rank_rule")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--lengths", nargs="+", default=["real", "16", "128"], help="real: as SST-2's are distributed")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each model and cell")
    parser.add_argument("--graphs", type=Path, help="folder where traced graphs are kept, and found by the next run")
    parser.add_argument("--peers", nargs="*", choices=["eager", "compile", "plain", "openvino"], default=[])
    return parser.parse_args()


def _models(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Model]]:
    """Everything that takes part, by name; sessions outlive the folder."""
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=12,
        intermediate_size=4 * options.hidden,
    )
    teacher = BertForSequenceClassification(config).eval()
    for name, bias in teacher.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(bias, std=0.02)  # equal ones would be merged
    students = {f"student {budget:g}": _student(teacher, budget, options.rule) for budget in options.budgets}
    for name, model in {"teacher": teacher, **students}.items():
        stem = f"{options.layers}x{options.hidden} {options.rule} {name}"
        traced, whole, small = (folder / f"{stem} {kind}.onnx" for kind in ("traced", "fp32", "int8"))
        if not traced.is_file():
            trace(model, INPUTS, traced)
        shutil.copy(traced, whole)
        rewrite(whole)
        to_int8(whole, small, _examples())
        if name == "teacher":
            yield "teacher, fused", _onnxruntime(traced)
        yield f"{name}, fp32", _onnxruntime(whole)
        yield f"{name}, int8", _onnxruntime(small)
        for peer in options.peers:
            yield from ((f"{name}, {way}", run) for way, run in PEERS[peer](model, traced, whole))


def _student(teacher: PreTrainedModel, budget: float, rule: str) -> PreTrainedModel:
    """A low-rank copy with random factors, ranks as `factorize.rank_rule` deals them out.

    All matrices are taken to have the same spectrum, which falls as MiniLM's do after whitening: rank r of n explains
    in proportion to exp(-12 r / n).
    """
    parts = Parts(teacher)
    shapes = {name: teacher.get_submodule(name).weight.shape for name in parts.matrix_names()}
    read = reach(teacher, list(shapes))
    matrices = [
        Matrix(name=name, outputs=out, inputs=into, energy=_spectrum(min(out, into)), reach=read[name])
        for name, (out, into) in shapes.items()
    ]
    whole = parts.layer_parameters()
    room = int(budget * whole) - (whole - parts.matrix_parameters())
    ranks = allocate(matrices, room, rule, 16)
    factors = {
        name: (0.1 * torch.randn(out, ranks[name]), 0.1 * torch.randn(ranks[name], into))
        for name, (out, into) in shapes.items()
        if ranks[name]
    }
    return assemble(teacher, factors)


def _spectrum(ranks: int) -> list[float]:
    falling = np.exp(-12 * np.arange(ranks) / ranks)
    return (falling / falling.sum()).tolist()


def _onnxruntime(path: Path, **settings: Any) -> Model:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for name, value in settings.items():
        setattr(options, name, value)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["logits"], batch)


def _plain(model: PreTrainedModel, traced: Path, whole: Path) -> Iterator[tuple[str, Model]]:
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    yield "unfused", _onnxruntime(traced, graph_optimization_level=level)


def _eager(model: PreTrainedModel, traced: Path, whole: Path) -> Iterator[tuple[str, Model]]:
    yield "transformers", _torch(model)


def _compile(model: PreTrainedModel, traced: Path, whole: Path) -> Iterator[tuple[str, Model]]:
    yield "torch.compile", _torch(torch.compile(model, dynamic=True))


def _torch(model: Callable) -> Model:
    @torch.inference_mode()
    def run(batch: Batch) -> Any:
        return model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits

    return run


def _openvino(model: PreTrainedModel, traced: Path, whole: Path) -> Iterator[tuple[str, Model]]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    static = whole.with_suffix(".qdq.onnx")
    _quantize_static(whole, static)
    for name, path in {"OpenVINO fp32": whole, "OpenVINO int8": static}.items():
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        yield name, partial(request.infer, share_inputs=True)


def _quantize_static(source: Path, target: Path) -> None:
    """QDQ, weights by channel, activation ranges from the examples."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(_examples())

        def get_next(self) -> Batch | None:
            return next(self.left, None)

    model = onnx.load(source)
    del model.graph.value_info[:]
    with quiet():
        quantize_static(
            model,
            target,
            Reader(),
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            op_types_to_quantize=["MatMul"],
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


PEERS = {"eager": _eager, "compile": _compile, "plain": _plain, "openvino": _openvino}


def _examples() -> list[Batch]:
    """To calibrate with."""
    draw = _drawer("24", 1)
    return [draw() for _ in range(4)]


def _drawer(length: str, size: int) -> Callable[[], Batch]:
    """New random batches (size, tokens) at each call, padded to the longest where lengths are drawn."""
    draw = np.random.default_rng(0)

    def batch() -> Batch:
        lengths = np.full(size, int(length)) if length != "real" else _real(draw, size)
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = draw.integers(5, WORDS, mask.shape)
        return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}

    return batch


def _real(draw: np.random.Generator, size: int) -> np.ndarray:
    return np.clip(draw.lognormal(3.02, 0.52, size).astype(int) + 2, 4, 66)


def _prepare(model: Model, batch: Batch) -> tuple[Callable[[], Any], int]:
    return partial(model, batch), 1


def _table(rounds: Rounds, length: str, size: int) -> str:
    """A row per model: milliseconds a batch (p50), and how many times as fast as each reference."""
    rows = [
        [name, f"{latency(times, size)['p50_ms']:.1f}", *(f"{speed_up(rounds, who, name):.2f}" for who in REFERENCES)]
        for name, times in rounds.items()
    ]
    load = f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores, {len(rounds[REFERENCES[0]])} rounds"
    heads = [f"{size} x {length} tokens ({load})", "ms", *(f"against {who}" for who in REFERENCES)]
    return tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
