"""Attention over flat projections: no reshape, no transposition.

The exporter splits each projection into heads, moves the heads in front of the tokens, and moves them back afterwards:

    q, k, v (batch, tokens, heads · width) -> Reshape -> Transpose -> (batch, heads, tokens, width)
    Attention -> Transpose -> Reshape -> (batch, tokens, heads · width)

ONNX's Attention takes the flat form, too, once it is told the number of heads; the kernel then reads the heads where
they lie.
"""

import onnx_ir as ir

HEADS_FIRST = (0, 2, 1, 3)


def flatten_attention(graph: ir.Graph) -> None:
    """Feeds Attention with flat projections wherever that is all that stands around it."""
    for node in list(graph):
        if node.op_type == "Attention" and len(node.outputs) == 1 and len(node.inputs) <= 4:
            flat = [_merged(value) for value in node.inputs[:3]]
            back = _split_again(node.outputs[0])
            if back is not None and all(value is not None for value in flat):
                _flatten(graph, node, flat, back)


def _flatten(graph: ir.Graph, node: ir.Node, flat: list[ir.Value], back: ir.Node) -> None:
    heads = {"q_num_heads": node.inputs[0].shape[1], "kv_num_heads": node.inputs[1].shape[1]}
    made = ir.node("Attention", [*flat, *node.inputs[3:]], dict(node.attributes) | heads)
    made.outputs[0].shape, made.outputs[0].type = back.outputs[0].shape, back.outputs[0].type
    graph.insert_before(node, made)
    back.outputs[0].replace_all_uses_with(made.outputs[0])


def _merged(value: ir.Value) -> ir.Value | None:
    """The projection behind heads: (batch, heads, tokens, width) -> (batch, tokens, heads · width)."""
    if value.shape is None or not isinstance(value.shape[1], int) or not _moves_heads(value.producer()):
        return None
    split = value.producer().inputs[0].producer()
    return split.inputs[0] if _reshapes(split) and split.inputs[0].shape.rank() == 3 else None


def _split_again(value: ir.Value) -> ir.Node | None:
    """What makes one row of each token's heads again, if nothing else reads them."""
    readers = value.consumers()
    if len(readers) != 1 or not _moves_heads(readers[0]):
        return None
    merged = readers[0].outputs[0].consumers()
    return merged[0] if len(merged) == 1 and _reshapes(merged[0]) and merged[0].outputs[0].shape.rank() == 3 else None


def _moves_heads(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == HEADS_FIRST


def _reshapes(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Reshape"
