"""Parity: the graph is compared with PyTorch, or it is said why it cannot be."""

from pathlib import Path

import pytest
import torch

from stages.errors import BadInput
from stages.graph.parity import largest_difference


def test_a_graph_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BadInput, match=r"ONNX Runtime cannot run model\.onnx"):
        largest_difference(torch.nn.Identity(), tmp_path / "model.onnx", [])
