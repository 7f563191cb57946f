"""The padding mask in five operators.

The exporter writes the library's mask out index by index: ranges, comparisons, a gather for every (text, query, key).
Of an encoder all of it comes down to one line,

    mask[b, 0, q, k] = attention_mask[b, k] != 0

Whether it does is not read off the operators, which change from release to release, but tried: the part of the graph
that makes the mask is run on random padding, and only one that gives exactly this is replaced.
"""

import numpy as np
import onnx_ir as ir

from stages.graph.rewrites.constants import vector


def simplify_padding(graph: ir.Graph) -> None:
    """Makes the mask of all Attention nodes from the graph's `attention_mask`, where it is nothing else."""
    masks = [node.inputs[3] for node in graph if node.op_type == "Attention" and len(node.inputs) == 4]
    given = next((value for value in graph.inputs if value.name == "attention_mask"), None)
    for mask in dict.fromkeys(masks):
        if given is not None and mask is not None and _is_padding(graph, mask, given):
            mask.replace_all_uses_with(_padding(graph, given, mask))


def _is_padding(graph: ir.Graph, mask: ir.Value, given: ir.Value) -> bool:
    """Does the graph's own mask, on random padding of several shapes, equal the one line?"""
    import onnxruntime

    same = all((value.shape, value.dtype) == (given.shape, given.dtype) for value in graph.inputs)
    if mask.dtype != ir.DataType.BOOL or not same:
        return False
    part = ir.convenience.extract(graph, graph.inputs, [mask])
    model = ir.to_proto(ir.Model(part, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(0)
    for shape in ((1, 2), (1, 9), (4, 7), (7, 4)):
        feed = {value.name: draw.integers(0, 2, shape) for value in graph.inputs}
        expected = np.repeat(feed[given.name][:, None, None] != 0, shape[1], axis=2)
        if not np.array_equal(session.run(None, feed)[0], expected):
            return False
    return True


def _padding(graph: ir.Graph, given: ir.Value, mask: ir.Value) -> ir.Value:
    """(batch, tokens) int64 -> (batch, 1, queries, tokens) bool."""
    one = vector(graph, 1)
    real = ir.node("Cast", [given], {"to": ir.DataType.BOOL})
    keys = ir.node("Unsqueeze", [real.outputs[0], vector(graph, 1, 2)])
    tokens = ir.node("Shape", [given], {"start": 1})
    square = ir.node("Concat", [one, one, tokens.outputs[0], one], {"axis": 0})
    made = ir.node("Expand", [keys.outputs[0], square.outputs[0]])
    made.outputs[0].shape, made.outputs[0].type = mask.shape, mask.type
    graph.insert_before(graph.node(0), [real, keys, tokens, square, made])
    return made.outputs[0]
