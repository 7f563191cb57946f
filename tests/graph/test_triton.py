"""The model of a Triton repository: the graph that was asked for, and a configuration that Triton can read."""

import importlib.util
import re
from pathlib import Path

import onnx
import pytest
from onnxruntime import InferenceSession

from stages.graph.triton import write_triton_model
from tests.makers.texts import REVIEWS


def test_triton_gets_the_portable_graph_and_its_shapes(review_chain: Path) -> None:
    """Inputs and outputs of the configuration are those that ONNX Runtime reads from the graph beside it."""
    graph, text = review_chain / "triton/1/model.onnx", (review_chain / "triton/config.pbtxt").read_text()
    assert graph.read_bytes() == (review_chain / "student/onnx/model_portable.onnx").read_bytes()
    tensors = re.findall(r'\{ name: "(\w+)", data_type: TYPE_(\w+), dims: \[ ([-\d, ]+) \]', text)
    session = InferenceSession(graph)
    types = {"tensor(int64)": "INT64", "tensor(float)": "FP32"}
    for value, (name, kind, dims) in zip([*session.get_inputs(), *session.get_outputs()], tensors, strict=True):
        free = [dim if isinstance(dim, int) else -1 for dim in value.shape[1:]]
        assert (value.name, types[value.type], free) == (name, kind, [int(dim) for dim in dims.split(",")])
    assert (review_chain / "triton/labels.txt").read_text().splitlines() == REVIEWS.labels


def test_triton_reads_its_configuration(review_chain: Path) -> None:
    """Parsed by Triton's own message type; its module is loaded by itself, without the gRPC around it."""
    package = importlib.util.find_spec("tritonclient")
    if package is None:
        pytest.skip("tritonclient is not installed")
    from google.protobuf import text_format

    place = Path(package.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", place)
    spec.loader.exec_module(messages := importlib.util.module_from_spec(spec))
    config = text_format.Parse((review_chain / "triton/config.pbtxt").read_text(), messages.ModelConfig())
    assert config.backend == "onnxruntime" and config.max_batch_size > 1
    assert [tensor.name for tensor in config.input][:2] == ["input_ids", "attention_mask"]
    assert config.output[0].label_filename == "labels.txt"


def test_triton_gets_fp32_where_the_wanted_graph_was_refused(tmp_path: Path) -> None:
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), tmp_path / "model.onnx")
    rows = {"fp32": {"file": "model.onnx"}, "int8": {"refused": "accuracy 50 against 80"}}
    (tmp_path / "out").mkdir()
    manifest = {"variants": rows, "task": {"labels": []}}
    assert write_triton_model(tmp_path, manifest, "int8", tmp_path / "out") == "fp32"
    assert not (tmp_path / "out/labels.txt").exists()
