"""Commute: a factor per row moves behind the product of matrices, where it may be computed meanwhile.

Attention divides its weights by their sum and multiplies them by the values. Rows may be divided afterwards as well:
diag(r) E V = diag(r) (E V). A reciprocal takes several levels, the product of matrices one; side by side they take the
larger number instead of the sum.
"""

from __future__ import annotations

from dataclasses import replace

from pi_compiler.ir.graph import Graph, Node
from pi_compiler.ops.linear import affine
from pi_compiler.ops.op import array
from pi_compiler.ops.shaping import expand
from pi_compiler.passes.compilation import Compilation


def commute(c: Compilation) -> Compilation:
    """Graph -> graph with the row factors of left operands behind their products."""
    graph = c.graph
    while True:
        change = _next(graph)
        if change is None:
            return c if graph is c.graph else replace(c, graph=graph)
        graph = graph.rewrite(change)


def _next(graph: Graph) -> dict[Node, Node] | None:
    for node in graph.nodes():
        if node.op == "Dot" and (moved := _moved(node)) is not None:
            return {node: moved}
    return None


def _moved(dot: Node) -> Node | None:
    """The product with the factor behind it, if its left operand has one."""
    weights, values = dot.inputs
    scale = 1.0
    while weights.op == "Affine" and array(weights, "scale").size == 1 and not array(weights, "shift").any():
        scale *= float(array(weights, "scale").reshape(-1)[0])
        weights = weights.inputs[0]
    if weights.op != "Mul":
        return None
    for factor, rest in (weights.inputs, weights.inputs[::-1]):
        if factor.op != "Expand" or weights.shape[-1] == 1 or not _per_row(factor):
            continue
        plain = Node("Dot", (rest, values), dot.shape, dot.attrs, dot.origin)
        spread = expand(factor.inputs[0], dot.shape, factor.origin)
        return affine(Node("Mul", (plain, spread), dot.shape, weights.attrs, weights.origin), scale, 0.0, dot.origin)
    return None


def _per_row(factor: Node) -> bool:
    """Whether an expanded value is the same along the last axis."""
    inner = factor.inputs[0].shape
    return not inner or inner[-1] == 1
