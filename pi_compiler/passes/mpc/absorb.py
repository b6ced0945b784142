"""Absorb: rewritings that leave a network's meaning alone and make it cheaper on shares.

A scale and a shift behind a linear layer go into it; layers of one operand become one; maxima come first.

What stands before a linear layer is taken in while lowering (``linear``); this is the other direction. Batch
normalization after a convolution would otherwise be a product with secret numbers of its own, one round and
as many bytes as the convolution itself, wherever a comparison follows. A value that others read too stays.

Layers that multiply the same value, such as queries, keys and values of an attention head, are joined: the
mask of the operand is sent once, in one round.

A maximum commutes with a ReLU and needs no comparison with zero before it: pooled first, a quarter of the
elements is left to compare.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pi_compiler.ir.graph import Attr, FloatArray, Graph, Node
from pi_compiler.ops.op import array, optional_array
from pi_compiler.ops.shaping import slices
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


def pool_first(graph: Graph) -> Graph:
    """The graph with every ReLU that only a maximum reads behind that maximum."""
    while True:
        readers: dict[int, list[Node]] = {id(n): [] for n in graph.nodes()}
        for node in graph.nodes():
            for operand in node.inputs:
                readers[id(operand)].append(node)
        outputs = {id(n) for n in graph.outputs}
        swap = next(
            (
                n
                for n in graph.nodes()
                if n.op in ("MaxPool", "ReduceMax")
                and n.inputs[0].op == "Relu"
                and len(readers[id(n.inputs[0])]) == 1
                and id(n.inputs[0]) not in outputs
            ),
            None,
        )
        if swap is None:
            return graph
        relu = swap.inputs[0]
        pooled = replace(swap, inputs=relu.inputs)
        graph = graph.rewrite({swap: replace(relu, inputs=(pooled,), shape=swap.shape)})


def join(graph: Graph) -> Graph:
    """The graph with the matrix products of one operand side by side in one."""
    while True:
        groups: dict[int, list[Node]] = {}
        for node in graph.nodes():
            if node.op == "Gemm":
                groups.setdefault(id(node.inputs[0]), []).append(node)
        several = next((layers for layers in groups.values() if len(layers) > 1), None)
        if several is None:
            return graph
        # One group at a time: what is new may only read what this rewriting leaves alone.
        graph = graph.rewrite(_side_by_side(several))


def _side_by_side(layers: list[Node]) -> dict[Node, Node]:
    sizes = [node.shape[-1] for node in layers]
    weight = np.concatenate([array(node, "weight") for node in layers], axis=1)
    biases = [optional_array(node, "bias") for node in layers]
    attrs: dict[str, Attr] = {"weight": weight}
    if any(b is not None for b in biases):
        attrs["bias"] = np.concatenate([np.zeros(n) if b is None else b for n, b in zip(sizes, biases, strict=True)])
    first = layers[0]
    shape = (*first.shape[:-1], sum(sizes))
    origin = " + ".join(node.origin for node in layers)
    whole = Node("Gemm", first.inputs, shape, attrs, origin)
    change, start = {}, 0
    for node, size in zip(layers, sizes, strict=True):
        ranges = [range(n) for n in shape[:-1]] + [range(start, start + size)]
        change[node] = slices(whole, ranges, node.origin)
        start += size
    return change


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
