"""A model of a Triton repository: the graph, and its configuration.

    <model>/config.pbtxt     shapes, batching, instances (ModelConfig, as protocol buffers write it in text)
    <model>/labels.txt       a classifier's labels, which Triton's classification extension answers with
    <model>/1/model.onnx     version 1

Triton does not pad, and ends a batch where the next request has another length: a client that pads its texts to one
length lets more of them meet. Tokenizing is the client's part, too.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
from onnx import ValueInfoProto

FALLBACK = "fp32"
"""Made always, never refused."""
MOST_ROWS, WAIT = 64, 1000
"""Rows of a batch, and microseconds that a request waits for others to fill it."""


def write_triton_model(folder: Path, manifest: dict[str, Any], wanted: str, output: Path) -> str:
    """Writes the repository's folder of one model.

    Args:
        folder: what export made; `manifest` is its manifest.
        wanted: the variant; where it was not made, or refused, fp32 takes its place.

    Returns the variant that is there.
    """
    variant = wanted if "file" in manifest["variants"].get(wanted, {}) else FALLBACK
    path = folder / manifest["variants"][variant]["file"]
    graph = onnx.load(path).graph
    labels = manifest["task"].get("labels", [])
    (output / "1").mkdir()
    shutil.copyfile(path, output / "1" / "model.onnx")
    if labels:
        (output / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf8")
    (output / "config.pbtxt").write_text(
        _format_config(graph.input, graph.output, bool(labels), variant), encoding="utf8"
    )
    return variant


def _format_config(
    inputs: Iterable[ValueInfoProto], outputs: Iterable[ValueInfoProto], labeled: bool, variant: str
) -> str:
    label_file = ', label_filename: "labels.txt"' if labeled else ""
    return f"""# Variant {variant}. `max_queue_delay_microseconds`, `count` and `kind` are the ones to tune.
backend: "onnxruntime"
max_batch_size: {MOST_ROWS}
input [
{_format_tensors(inputs)}
]
output [
{_format_tensors(outputs, label_file)}
]
dynamic_batching {{ max_queue_delay_microseconds: {WAIT} }}
instance_group [ {{ count: 1, kind: KIND_AUTO }} ]
"""


def _format_tensors(values: Iterable[ValueInfoProto], more: str = "") -> str:
    """Without the first dimension, which is the batch's; -1 stands for a free one."""
    lines = []
    for value in values:
        tensor = value.type.tensor_type
        dims = ", ".join(str(d.dim_value) if d.HasField("dim_value") else "-1" for d in tensor.shape.dim[1:])
        lines.append(
            f'  {{ name: "{value.name}", data_type: {_format_type(tensor.elem_type)}, dims: [ {dims} ]{more} }}'
        )
    return ",\n".join(lines)


def _format_type(element: int) -> str:
    """ONNX's name of a type, such as INT64 or FLOAT, as Triton has it: TYPE_INT64, TYPE_FP32."""
    name = onnx.TensorProto.DataType.Name(element)
    return f"TYPE_{ {'FLOAT': 'FP32', 'FLOAT16': 'FP16'}.get(name, name) }"
