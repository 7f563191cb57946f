"""Ways to run a model, for benchmarks.peers: ONNX Runtime, PyTorch, OpenVINO."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from transformers import PreTrainedModel

from stages.graph.trace import silence_converters
from stages.timing.rounds import Batch

Runner = Callable[[Batch], Any]
"""A model, ready to run on a batch."""


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """A PyTorch model and its graphs."""

    model: PreTrainedModel
    traced: Path
    """As the exporter wrote it."""
    rewritten: Path
    calibration: list[Batch]
    """Batches to take the ranges of activations from."""


def open_session(path: Path, **settings: Any) -> Runner:
    """A graph in ONNX Runtime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for name, value in settings.items():
        setattr(options, name, value)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["logits"], batch)


def open_plain(whole: TracedModel) -> Iterator[tuple[str, Runner]]:
    """ONNX Runtime without its fusions."""
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    yield "unfused", open_session(whole.traced, graph_optimization_level=level)


def open_eager(whole: TracedModel) -> Iterator[tuple[str, Runner]]:
    """PyTorch as Transformers runs it."""
    yield "transformers", open_torch(whole.model)


def open_compiled(whole: TracedModel) -> Iterator[tuple[str, Runner]]:
    """PyTorch's compiler, for any shape."""
    yield "torch.compile", open_torch(torch.compile(whole.model, dynamic=True))


def open_torch(model: Callable[..., Any]) -> Runner:
    """A PyTorch model that takes NumPy arrays."""

    @torch.inference_mode()
    def run(batch: Batch) -> Any:
        return model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits

    return run


def open_openvino(whole: TracedModel) -> Iterator[tuple[str, Runner]]:
    """OpenVINO, on one thread, in fp32 and int8."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    static = whole.rewritten.with_suffix(".qdq.onnx")
    quantize_qdq(whole.rewritten, static, whole.calibration)
    for name, path in {"OpenVINO fp32": whole.rewritten, "OpenVINO int8": static}.items():
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        yield name, partial(request.infer, share_inputs=True)


def quantize_qdq(source: Path, target: Path, calibration: list[Batch]) -> None:
    """QDQ, weights by channel, activation ranges from the calibration batches."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(calibration)

        def get_next(self) -> Batch | None:
            return next(self.batches, None)

    model = onnx.load(source)
    del model.graph.value_info[:]
    with silence_converters():
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


PEERS: dict[str, Callable[[TracedModel], Iterator[tuple[str, Runner]]]] = {
    "eager": open_eager,
    "compile": open_compiled,
    "plain": open_plain,
    "openvino": open_openvino,
}
"""Each yields a model's runners, named."""
