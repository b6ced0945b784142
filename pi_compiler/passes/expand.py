"""Approximants as graph nodes: polynomials, chains of them, and formulas with products and sums."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.poly import Apply, Composite, Formula, Poly, Sum, Times
from pi_compiler.ir.graph import Attr, Node


def expand(approx: object, x: Node, node: Node) -> Node:
    """The nodes that compute an approximant of ``x``; all carry the name of the layer they replace.

    Args:
        approx: a ``Poly``, ``Composite`` or ``Formula``.
        x: the operand.
        node: the nonlinearity that is replaced.

    Raises:
        ApproximationError: an approximant that compares or divides.
    """
    match approx:
        case Poly():
            return _poly(approx, x, node)
        case Composite():
            for stage in approx.stages:
                x = _poly(stage, x, node)
            return x
        case Formula():
            return _formula(approx, x, node)
        case _:
            raise ApproximationError(f"a {type(approx).__name__.lower()} fit cannot be evaluated on ciphertexts")


def _poly(poly: Poly, x: Node, node: Node) -> Node:
    attrs: Mapping[str, Attr] = {"basis": poly.basis, "coef": np.asarray(poly.coef), "domain": np.asarray(poly.domain)}
    return Node("Poly", (x,), node.shape, attrs, node.origin)


def _formula(formula: Formula, x: Node, node: Node) -> Node:
    values = [x]
    for step in formula.steps:
        match step:
            case Apply(poly, argument):
                values.append(_poly(poly, values[argument], node))
            case Times(left, right) if left == right:
                square: Mapping[str, Attr] = {
                    "basis": "power",
                    "coef": np.array([0.0, 0.0, 1.0]),
                    "domain": np.array([-1.0, 1.0]),
                }
                values.append(Node("Poly", (values[left],), node.shape, square, node.origin))
            case Times(left, right):
                values.append(Node("Mul", (values[left], values[right]), node.shape, {}, node.origin))
            case Sum():
                values.append(_sum(step, values, node))
    return values[-1]


def _sum(step: Sum, values: list[Node], node: Node) -> Node:
    parts = []
    for number, (factor, index) in enumerate(step.terms):
        shift = step.constant if number == 0 else 0.0
        attrs: Mapping[str, Attr] = {"scale": np.asarray(factor), "shift": np.asarray(shift)}
        parts.append(Node("Affine", (values[index],), node.shape, attrs, node.origin))
    if not parts:
        raise ApproximationError("a formula that is a constant has nothing to compute")
    return parts[0] if len(parts) == 1 else Node("Add", tuple(parts), node.shape, {}, node.origin)
