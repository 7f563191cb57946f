"""Constants that rewrites add to a graph."""

import numpy as np
import onnx_ir as ir


def vector(graph: ir.Graph, *numbers: int) -> ir.Value:
    """An int64 vector among the graph's initializers, the same one for the same numbers."""
    name = "vector_" + "_".join(map(str, numbers))
    if name not in graph.initializers:
        tensor = ir.tensor(np.array(numbers, np.int64), name=name)
        graph.register_initializer(ir.val(name, const_value=tensor))
    return graph.initializers[name]
