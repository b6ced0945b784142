"""Two layers with nothing between them become one, where that is exact and saves multiplications.

Convolution after convolution: kernels are convolved, strides multiply, biases pass through the second kernel. It is
exact where the second pads nothing, for the first's values outside its result are not zero. Gemm after
Gemm: matrices are multiplied. A scale and shift per channel, before or after either, goes into it.
VanillaNet (Chen et al., NeurIPS 2023, section 3.1) and CoPriv (NeurIPS 2023) merge so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops.op import array, integer, ints, optional_array

__all__ = ["fuse_layers", "multiplications"]

_FUSED = ("Conv", "Gemm", "Affine")


def fuse_layers(graph: Graph) -> Graph:
    """The same function with fewer layers; the second layer's name stays."""
    while True:
        uses = _uses(graph)
        pairs = ((n, _fused(n)) for n in graph.nodes() if n.op in _FUSED and uses.get(n.inputs[0]) == 1)
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
    if second.op == "Affine":
        return _scaled_after(first, second) if first.op in ("Conv", "Gemm") else None
    if first.op == "Affine":
        return _scaled_before(first, second)
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
    plain = all(integer(n, "group") == 1 for n in (first, second))
    if not plain or any(ints(second, "pads")) or not _covered(second):
        return None
    strides, inner = ints(first, "strides"), ints(first, "dilations")
    # A tap of the second moves the first's taps by its own dilation, in steps of the first's stride.
    moves = [d * s for d, s in zip(ints(second, "dilations"), strides, strict=True)]
    reach = [(n - 1) * d + 1 for n, d in zip(a.shape[2:], inner, strict=True)]
    kernel = tuple(x + (y - 1) * m for x, y, m in zip(reach, b.shape[2:], moves, strict=True))
    weight: FloatArray = np.zeros((len(b), a.shape[1], *kernel))
    for tap in np.ndindex(*b.shape[2:]):
        place = tuple(slice(t * m, t * m + n, d) for t, m, n, d in zip(tap, moves, reach, inner, strict=True))
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


def _per_channel(values: FloatArray, node: Node) -> FloatArray | None:
    """A constant as one number per channel of a layer's operand or result, None if it differs along other axes."""
    axis = len(node.shape) - 1 if node.op == "Gemm" else 1
    shape = (1,) * (len(node.shape) - values.ndim) + values.shape
    if len(shape) != len(node.shape) or any(n != 1 for i, n in enumerate(shape) if i != axis):
        return None
    return np.broadcast_to(values.reshape(-1), (node.shape[axis],))


def _scaled_after(layer: Node, affine: Node) -> Node | None:
    scale, shift = (_per_channel(array(affine, name), layer) for name in ("scale", "shift"))
    if scale is None or shift is None or affine.shape != layer.shape:
        return None
    weight = array(layer, "weight")
    wide = scale if layer.op == "Gemm" else scale.reshape(-1, *(1,) * (weight.ndim - 1))
    return replace(
        layer, attrs={**layer.attrs, "weight": weight * wide, "bias": _bias(layer, len(scale)) * scale + shift}
    )


def _scaled_before(affine: Node, layer: Node) -> Node | None:
    x, weight = affine.inputs[0], array(layer, "weight")
    operand = replace(layer, shape=affine.shape)
    scale, shift = (_per_channel(array(affine, name), operand) for name in ("scale", "shift"))
    if scale is None or shift is None or affine.shape != x.shape:
        return None
    if layer.op == "Gemm":
        weight, bias = weight * scale[:, None], _sum(shift @ weight, layer)
        return replace(layer, inputs=(x,), attrs={**layer.attrs, "weight": weight, "bias": bias})
    # What is padded is not shifted.
    inside = not any(ints(layer, "pads")) and _covered(layer)
    if integer(layer, "group") != 1 or (shift.any() and not inside):
        return None
    bias = _sum(weight.reshape(*weight.shape[:2], -1).sum(2) @ shift, layer)
    weight = weight * scale.reshape(1, -1, *(1,) * (weight.ndim - 2))
    return replace(layer, inputs=(x,), attrs={**layer.attrs, "weight": weight, "bias": bias})


def _covered(node: Node) -> bool:
    """Whether every window lies inside the operand: nothing is padded behind it either."""
    x, weight, strides = node.inputs[0], array(node, "weight"), ints(node, "strides")
    sizes = zip(node.shape[2:], strides, weight.shape[2:], ints(node, "dilations"), x.shape[2:], strict=True)
    return all((o - 1) * s + (k - 1) * d + 1 <= n for o, s, k, d, n in sizes)


def _bias(node: Node, size: int) -> FloatArray:
    bias = optional_array(node, "bias")
    return np.zeros(size) if bias is None else bias.reshape(-1)


def _sum(passed: FloatArray, second: Node) -> FloatArray:
    return passed + _bias(second, len(passed))
