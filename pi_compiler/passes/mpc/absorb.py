"""Absorb: a scale and a shift behind a linear layer go into that layer's weights and bias.

What stands before a linear layer is taken in while lowering (``linear``); this is the other direction. Batch
normalization after a convolution would otherwise be a product with secret numbers of its own, one round and
as many bytes as the convolution itself, wherever a comparison follows. A value that others read too stays.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops.op import array, optional_array
from pi_compiler.passes.mpc.linear import along

_AXIS = {"Conv": 1, "Gemm": -1}
"""Layers that can take a factor per entry along this axis of their result."""


def absorb(graph: Graph) -> Graph:
    """The graph with every ``Affine`` in the layer before it that can be there."""
    while True:
        readers: dict[int, int] = {}
        for node in graph.nodes():
            for operand in node.inputs:
                readers[id(operand)] = readers.get(id(operand), 0) + 1
        for node in graph.outputs:
            readers[id(node)] = readers.get(id(node), 0) + 1
        change = {}
        for node in graph.nodes():
            if node.op == "Affine" and node.inputs[0].op in _AXIS and readers[id(node.inputs[0])] == 1:
                merged = _merged(node, node.inputs[0])
                if merged is not None:
                    change[node] = merged
        if not change:
            return graph
        graph = graph.rewrite(change)


def _merged(affine: Node, layer: Node) -> Node | None:
    axis = _AXIS[layer.op]
    if affine.shape != layer.shape:
        return None
    scale, shift = (along(array(affine, k), layer.shape, axis) for k in ("scale", "shift"))
    if scale is None or shift is None:
        return None
    weight, bias = array(layer, "weight"), optional_array(layer, "bias")
    wide: FloatArray = scale.reshape(-1, *(1,) * (weight.ndim - 1)) if layer.op == "Conv" else scale
    summed = shift + (0.0 if bias is None else bias * scale)
    attrs = {**layer.attrs, "weight": weight * wide}
    attrs.pop("bias", None)
    if np.any(summed):
        attrs["bias"] = summed
    return replace(layer, attrs=attrs)
