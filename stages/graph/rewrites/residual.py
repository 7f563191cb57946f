"""A Sum in front of each normalization.

ONNX Runtime turns Add and LayerNormalization into its own SkipLayerNormalization, which on a CPU takes six times as
long as the two of them (0.49 against 0.08 ms for 128 x 768, one thread). A Sum is the same addition, and left alone.
"""

import onnx_ir as ir


def sum_residuals(graph: ir.Graph) -> None:
    """Sum in place of an Add that a LayerNormalization reads."""
    for node in list(graph):
        added = node.inputs[0].producer() if node.op_type == "LayerNormalization" else None
        if added is not None and added.op_type == "Add":
            made = ir.node("Sum", added.inputs)
            total, before = made.outputs[0], added.outputs[0]
            total.shape, total.type = before.shape, before.type
            graph.insert_before(added, made)
            before.replace_all_uses_with(total)
