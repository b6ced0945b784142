"""Finds layer normalization that an exporter wrote out: with the mean taken off, or without (RMSNorm).

``x / sqrt(mean(x²) + eps)`` in any of its spellings is read as ``Mul(x, Expand(InverseSqrt(Affine(ReduceMean(
Square(x))))))``; scale and bias behind it stay what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from pi_compiler.ir.graph import Attr, Graph, Node
from pi_compiler.ops.op import array, ints

__all__ = ["blocks"]


def blocks(graph: Graph) -> Graph:
    """The graph with layer normalization in one node."""
    change = {n: found for n in graph.nodes() if n.op == "Mul" and (found := _normalization(n)) is not None}
    return graph.rewrite(change) if change else graph


def _normalization(node: Node) -> Node | None:
    for x, factor in (node.inputs, node.inputs[::-1]):
        inverse = _through(factor, "Expand")
        shifted = inverse.inputs[0] if inverse.op == "InverseSqrt" else None
        epsilon = None if shifted is None else _epsilon(shifted)
        if shifted is None or epsilon is None:
            continue
        mean = shifted.inputs[0] if shifted.op == "Affine" else shifted
        axis = _last_axes(mean, x)
        if axis is None or mean.inputs[0].op != "Square" or mean.inputs[0].inputs[0] is not x:
            continue
        attrs: dict[str, Attr] = {"axis": axis, "epsilon": epsilon, "scale": np.ones(x.shape[axis:])}
        if (source := _centered(x, axis)) is not None:
            return Node("LayerNorm", (source,), node.shape, attrs, node.origin)
        return Node("LayerNorm", (x,), node.shape, attrs | {"center": 0}, node.origin)
    return None


def _through(node: Node, op: str) -> Node:
    while node.op == op:
        node = node.inputs[0]
    return node


def _epsilon(node: Node) -> float | None:
    """What is added to a mean; None if the node is something else."""
    if node.op != "Affine":
        return 0.0 if node.op == "ReduceMean" else None
    scale, shift = array(node, "scale"), array(node, "shift")
    single = np.ptp(shift) == 0.0 and (scale == 1.0).all() and shift.flat[0] >= 0.0
    return float(shift.flat[0]) if single and node.inputs[0].op == "ReduceMean" else None


def _last_axes(mean: Node, x: Node) -> int | None:
    """The first of the axes that are averaged, if these are the last ones and stay as ones."""
    if mean.op != "ReduceMean":
        return None
    axes: Sequence[int] = ints(mean, "axes")
    first = min(axes)
    whole = tuple(axes) == tuple(range(first, len(x.shape))) and prod(x.shape[first:]) > 1
    return first if whole and mean.shape == (*x.shape[:first], *(1,) * len(axes)) else None


def _centered(x: Node, axis: int) -> Node | None:
    """What x is the deviation of from its mean."""
    if x.op != "Sub":
        return None
    source, mean = x.inputs[0], _through(x.inputs[1], "Expand")
    same = mean.op == "ReduceMean" and mean.inputs[0] is source and _last_axes(mean, source) == axis
    return source if same else None
