"""The same function in fewer, cheaper operators.

What the exporter writes is a faithful trace; a runtime fuses of it what it recognizes. These rewrites do what none
does, for dense and low-rank models alike, and stay within standard ONNX (opset 23): any runtime that takes the traced
graph takes this one. Each finds its place by the operators around it, never by names, and leaves alone what it does
not know.
"""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from stages.graph.rewrites.attention import flatten_attention
from stages.graph.rewrites.first_token import keep_first_token
from stages.graph.rewrites.padding import simplify_padding
from stages.graph.rewrites.residual import sum_residuals

REWRITES = [simplify_padding, flatten_attention, keep_first_token, sum_residuals]
"""In the order in which they help each other."""


def rewrite_graph(path: Path) -> None:
    """Rewrites an ONNX file in place."""
    model = ir.load(path)
    for step in REWRITES:
        step(model.graph)
    RemoveUnusedNodesPass()(model)
    ir.save(model, path)
