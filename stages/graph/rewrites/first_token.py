"""A last layer that computes what the head reads: one token.

A classification head takes the first token's hidden state, `Gather(hidden, 0, axis=1)`. Layers work on every token by
itself, except in attention, where a token's query reads the keys and values of all. So the choice of the first token
moves up through the last layer as far as to its queries and its residual stream:

    f(x)[:, :1] = f(x[:, :1])                                  norms, activations, sums, x W
    Attention(q, k, v)[:, :1] = Attention(q[:, :1], k, v)

What is left of the layer for the other tokens is keys and values. Exact, and found by the graph's structure alone.
"""

import onnx_ir as ir

from stages.graph.rewrites.constants import vector

POINTWISE = ("Add", "Sum", "Sub", "Mul", "Div", "Gelu", "Erf", "Tanh", "Relu", "Sigmoid", "Cast")


def keep_first_token(graph: ir.Graph) -> None:
    """Computes a hidden state, of which only the first token is read, for that token alone."""
    for node in list(graph):
        if _takes_first(node):
            _narrow(graph, node)


def _narrow(graph: ir.Graph, head: ir.Node) -> None:
    """Upwards from the head: nodes all of whose readers want one token compute one; what else they read is sliced."""
    wanted, narrow = {(head, 0): None}, set()
    for node in reversed(list(graph)):
        value = node.outputs[0]
        only = {tuple(use) for use in value.uses()} <= wanted.keys() and not value.is_graph_output()
        rows = _rows(node) if only and len(node.outputs) == 1 else []
        if rows:
            narrow.add(node)
            wanted |= dict.fromkeys((node, i) for i in rows)
            value.shape = _one(value)
    whole = {node.inputs[i]: None for node, i in wanted if node.inputs[i].producer() not in narrow}
    for value in whole:
        _slice(graph, value, [(node, i) for node, i in wanted if node.inputs[i] is value])


def _rows(node: ir.Node) -> list[int]:
    """Inputs that may be cut to the first token if the output is; none where the node mixes tokens."""
    inputs = [value if value is None or value.shape is not None else None for value in node.inputs]
    if None in inputs or node.outputs[0].shape is None or node.outputs[0].shape.rank() != 3:
        return []
    if node.op_type in POINTWISE:
        ranks = [value.shape.rank() for value in inputs]
        return [i for i, rank in enumerate(ranks) if rank == 3] if all(rank in (0, 1, 3) for rank in ranks) else []
    if node.op_type == "LayerNormalization":
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        return [0] if axis in (-1, 2) else []
    if node.op_type == "MatMul":
        return [0] if inputs[1].shape.rank() == 2 else []
    if node.op_type == "Attention" and not _causal(node) and inputs[0].shape.rank() == 3:
        return [0, 3] if len(inputs) == 4 else [0]
    return []


def _slice(graph: ir.Graph, value: ir.Value, uses: list[tuple[ir.Node, int]]) -> None:
    """The first token of a value for those that want no more: on axis 1, of a mask on the queries' axis 2."""
    made = ir.node("Slice", [value, vector(graph, 0), vector(graph, 1), vector(graph, value.shape.rank() - 2)])
    made.outputs[0].shape, made.outputs[0].type = _one(value), value.type
    if value.producer() is None:
        graph.insert_before(graph.node(0), made)
    else:
        graph.insert_after(value.producer(), made)
    for node, i in uses:
        node.replace_input_with(i, made.outputs[0])


def _one(value: ir.Value) -> ir.Shape:
    dims = list(value.shape)
    dims[-2] = 1
    return ir.Shape(dims)


def _takes_first(node: ir.Node) -> bool:
    """Gather of index 0 on the tokens' axis of (batch, tokens, width)."""
    if node.op_type != "Gather" or node.inputs[0].shape is None or node.inputs[0].shape.rank() != 3:
        return False
    index = ir.convenience.get_const_tensor(node.inputs[1])
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    return axis == 1 and index is not None and index.shape.rank() == 0 and not index.numpy().any()


def _causal(node: ir.Node) -> bool:
    return "is_causal" in node.attributes and bool(node.attributes["is_causal"].as_int())
