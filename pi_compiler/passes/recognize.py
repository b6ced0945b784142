"""Recognize: polynomials that a model spells out become one activation.

Networks trained with polynomial activations arrive as squares, scalings and sums. Evaluated as
such, a x^2 + b x + c takes two levels; as one completed square it takes one. Every node that is an
element-wise polynomial of some earlier value, with coefficients per channel, is found by
propagating coefficients through the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops import OPS
from pi_compiler.passes.compilation import Compilation

_LARGEST_DEGREE = 63


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """sum_k coef[k] * base^k; coef has shape (degree + 1, 1) or (degree + 1, channels)."""

    base: Node
    coef: FloatArray

    @property
    def degree(self) -> int:
        return len(self.coef) - 1


def recognize(c: Compilation) -> Compilation:
    """Graph -> graph with spelled-out polynomials as ``Poly`` nodes."""
    forms: dict[int, _Form] = {}
    for node in c.graph.nodes():
        forms[id(node)] = _form(node, forms) or _Form(node, np.array([[0.0], [1.0]]))
    change = {n: _poly(n, forms[id(n)]) for n in _tops(c.graph, forms)}
    return replace(c, graph=c.graph.rewrite(change)) if change else c


def _tops(graph: Graph, forms: Mapping[int, _Form]) -> list[Node]:
    """Nodes that are polynomials of degree two or more and do not only feed a larger one of the same base."""
    nodes = list(graph.nodes())
    readers: dict[int, list[Node]] = {id(n): [] for n in nodes}
    for node in nodes:
        for operand in node.inputs:
            readers[id(operand)].append(node)
    outputs = {id(n) for n in graph.outputs}
    tops = []
    for node in nodes:
        form = forms[id(node)]
        if form.degree < 2 or node.op == "Poly" or (OPS[node.op].kind == "nonlinear" and not _worthwhile(node, forms)):
            continue
        absorbed = [forms[id(r)].base is form.base and _shareable(forms[id(r)]) for r in readers[id(node)]]
        if id(node) not in outputs and absorbed and all(absorbed):
            continue
        if _shareable(form) and _spelled_out(node, forms):
            tops.append(node)
    return tops


def _worthwhile(node: Node, forms: Mapping[int, _Form]) -> bool:
    """A lone Square or Pow is an activation already; one of a scaled value is not."""
    return forms[id(node.inputs[0])].base is not node.inputs[0]


def _spelled_out(node: Node, forms: Mapping[int, _Form]) -> bool:
    return any(forms[id(i)].base is not i for i in node.inputs)


def _shareable(form: _Form) -> bool:
    """Above degree two all channels must share the coefficients, or each needs its own evaluation."""
    return form.degree <= 2 or form.coef.shape[1] == 1


def _poly(node: Node, form: _Form) -> Node:
    coef = form.coef[:, 0] if form.coef.shape[1] == 1 else form.coef
    attrs = {"basis": "power", "coef": coef, "domain": np.array([-1.0, 1.0])}
    return Node("Poly", (form.base,), node.shape, attrs, node.origin)


def _form(node: Node, forms: Mapping[int, _Form]) -> _Form | None:
    """The node as a polynomial of its operands' common base, if it is one."""
    if not node.inputs or any(i.shape != node.shape for i in node.inputs):
        return None
    operands = [forms[id(i)] for i in node.inputs]
    base = operands[0].base
    if any(o.base is not base for o in operands):
        return None
    coef = [o.coef for o in operands]
    if node.op == "Affine":
        scale, shift = (_per_channel(np.asarray(node.attrs[k], dtype=np.float64), node) for k in ("scale", "shift"))
        if scale is None or shift is None:
            return None
        return _Form(base, _add(coef[0] * scale, shift[None]))
    if node.op in ("Add", "Sub"):
        signs = [1.0] * len(coef) if node.op == "Add" else [1.0, -1.0]
        total = np.zeros((1, 1))
        for sign, values in zip(signs, coef, strict=True):
            total = _add(total, sign * values)
        return _Form(base, total)
    if OPS[node.op].kind == "product":
        return _limited(base, _multiply(coef[0], coef[1]))
    if OPS[node.op].kind == "nonlinear":
        own = OPS[node.op].polynomial(node)
        if own is None:
            return None
        result, power = np.zeros((1, 1)), np.ones((1, 1))
        for c in own:
            result = _add(result, c * power)
            if len(power) - 1 > _LARGEST_DEGREE:
                return None
            power = _multiply(power, coef[0])
        return _limited(base, result)
    return None


def _limited(base: Node, coef: FloatArray) -> _Form | None:
    return _Form(base, coef) if len(coef) - 1 <= _LARGEST_DEGREE else None


def _per_channel(values: FloatArray, node: Node) -> FloatArray | None:
    """(1,) or (channels,) if the values depend on nothing but the channel (axis 1), else None."""
    if values.size == 1:
        return values.reshape(1)
    if len(node.shape) < 2:
        return None
    full = np.broadcast_to(values, node.shape)
    channels = np.moveaxis(full, 1, 0).reshape(node.shape[1], -1)
    if (channels != channels[:, :1]).any():
        return None
    return np.array(channels[:, 0])


def _add(a: FloatArray, b: FloatArray) -> FloatArray:
    degree, channels = max(len(a), len(b)), max(a.shape[1], b.shape[1])
    total = np.zeros((degree, channels))
    total[: len(a)] += a
    total[: len(b)] += b
    return total


def _multiply(a: FloatArray, b: FloatArray) -> FloatArray:
    channels = max(a.shape[1], b.shape[1])
    product = np.zeros((len(a) + len(b) - 1, channels))
    for i, row in enumerate(a):
        product[i : i + len(b)] += row * b
    return product
