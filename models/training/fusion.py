"""Two layers with nothing between them become one, where that is exact and saves multiplications.

Convolution after convolution: kernels are convolved, strides multiply, biases pass through the second kernel. It is
exact where the second pads nothing, for the first's values outside its result are not zero. Gemm after
Gemm: matrices are multiplied. VanillaNet (Chen et al., NeurIPS 2023, section 3.1) and CoPriv (NeurIPS 2023)
merge so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops.op import array, integer, ints, optional_array

__all__ = ["fuse_layers", "multiplications"]


def fuse_layers(graph: Graph) -> Graph:
    """The same function with fewer layers; the second layer's name stays."""
    while True:
        uses = _uses(graph)
        pairs = ((n, _fused(n)) for n in graph.nodes() if n.op in ("Conv", "Gemm") and uses.get(n.inputs[0]) == 1)
        change = next(((old, new) for old, new in pairs if new is not None), None)
        if change is None:
            return graph
        graph = graph.rewrite({change[0]: change[1]})


def multiplications(node: Node) -> int:
    """Of weights with values, for one sample; Conv and Gemm."""
    weight = array(node, "weight")
    return node.size * (weight.shape[0] if node.op == "Gemm" else int(np.prod(weight.shape[1:])))


def _uses(graph: Graph) -> dict[Node, int]:
    uses = dict.fromkeys(graph.outputs, 1)
    for node in graph.nodes():
        for i in node.inputs:
            uses[i] = uses.get(i, 0) + 1
    return uses


def _fused(second: Node) -> Node | None:
    first = second.inputs[0]
    if first.op != second.op:
        return None
    fused = _gemm(first, second) if second.op == "Gemm" else _conv(first, second)
    if fused is None or multiplications(fused) > multiplications(first) + multiplications(second):
        return None
    return fused


def _gemm(first: Node, second: Node) -> Node:
    a, b = array(first, "weight"), array(second, "weight")
    bias = _sum(_bias(first, a.shape[1]) @ b, second)
    return replace(second, inputs=first.inputs, attrs={**second.attrs, "weight": a @ b, "bias": bias})


def _conv(first: Node, second: Node) -> Node | None:
    a, b = array(first, "weight"), array(second, "weight")
    rank = a.ndim - 2
    plain = all(integer(n, "group") == 1 and set(ints(n, "dilations")) == {1} for n in (first, second))
    if not plain or any(ints(second, "pads")) or not _covered(second):
        return None
    strides = ints(first, "strides")
    kernel = tuple(x + (y - 1) * s for x, y, s in zip(a.shape[2:], b.shape[2:], strides, strict=True))
    weight: FloatArray = np.zeros((len(b), a.shape[1], *kernel))
    for tap in np.ndindex(*b.shape[2:]):
        place = tuple(slice(t * s, t * s + n) for t, s, n in zip(tap, strides, a.shape[2:], strict=True))
        weight[(slice(None), slice(None), *place)] += np.tensordot(b[(slice(None), slice(None), *tap)], a, axes=(1, 0))
    bias = _sum(b.reshape(*b.shape[:2], -1).sum(2) @ _bias(first, len(a)), second)
    attrs = {
        **second.attrs,
        "weight": weight,
        "bias": bias,
        "strides": tuple(x * y for x, y in zip(strides, ints(second, "strides"), strict=True)),
        "pads": ints(first, "pads"),
        "dilations": (1,) * rank,
        "group": 1,
    }
    return replace(second, inputs=first.inputs, attrs=attrs)


def _covered(node: Node) -> bool:
    """Whether every window lies inside the operand: nothing is padded behind it either."""
    x, weight, strides = node.inputs[0], array(node, "weight"), ints(node, "strides")
    sizes = zip(node.shape[2:], strides, weight.shape[2:], x.shape[2:], strict=True)
    return all((o - 1) * s + k <= n for o, s, k, n in sizes)


def _bias(node: Node, size: int) -> FloatArray:
    bias = optional_array(node, "bias")
    return np.zeros(size) if bias is None else bias.reshape(-1)


def _sum(passed: FloatArray, second: Node) -> FloatArray:
    return passed + _bias(second, len(passed))
