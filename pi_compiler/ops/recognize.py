"""Finds activations that an exporter wrote out as several operators.

A region of elementwise operators between two nodes is a function of one variable. Whatever way it is
written, it is evaluated on a grid and compared with the activations that frameworks decompose: both
forms of GELU, SiLU (also x sigmoid(r x)), Mish, Softplus, HardSwish, Softsign, and others.

Comparisons and choices between values have no private counterpart of their own, but a Softplus may be
written with them. Their nodes (``Greater`` ... ``Where``) are no canonical operators and exist only
until they are recognized; ``unrecognized`` lists what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from pi_compiler.errors import UnsupportedOperator
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops import OPS
from pi_compiler.ops.blocks import blocks
from pi_compiler.ops.elementwise import activation
from pi_compiler.ops.joint import read_comparison, read_where
from pi_compiler.ops.masks import of_owner
from pi_compiler.ops.op import Call, Reader, array, number, same

_LARGEST = 24  # operators in a region; GELU's tanh form takes nine
_FAR = (12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
_GRID = np.unique([*np.linspace(-9.0, 9.0, 145), *_FAR, *(-x for x in _FAR)])
_TOLERANCE = 1e-6  # float32 constants of the exporters, far below the distance between any two forms
_ENDS = frozenset({"Mul", "Affine", "Reciprocal", "Where"})
_JOINS = frozenset({"Mul", "Add", "Sub"})
_FLIPPED = {
    "Greater": "Less",
    "Less": "Greater",
    "GreaterOrEqual": "LessOrEqual",
    "LessOrEqual": "GreaterOrEqual",
}
_COMPARE: Mapping[str, Callable[[FloatArray, float], FloatArray]] = {
    "Greater": lambda x, bound: np.greater(x, bound).astype(np.float64),
    "Less": lambda x, bound: np.less(x, bound).astype(np.float64),
    "GreaterOrEqual": lambda x, bound: np.greater_equal(x, bound).astype(np.float64),
    "LessOrEqual": lambda x, bound: np.less_equal(x, bound).astype(np.float64),
}
_REASON, _ADVICE = "comparisons of encrypted values come later", "a smooth activation"

_FORMS: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("Gelu", {}),
    ("GeluTanh", {}),
    ("Mish", {}),
    ("HardSwish", {"alpha": 1.0 / 6.0, "beta": 0.5}),
    ("HardSigmoid", {"alpha": 1.0 / 6.0, "beta": 0.5}),
    ("Sigmoid", {}),
    ("Softsign", {}),
    ("Softplus", {}),
    ("Relu", {}),
)


def recognize(graph: Graph) -> Graph:
    """The graph with every activation that was written out put back into one node."""
    order = list(graph.nodes())
    place = {id(n): i for i, n in enumerate(order)}
    change: dict[Node, Node] = {}
    inside: set[int] = set()
    for node in reversed(order):
        if node.op not in _ENDS or id(node) in inside:
            continue
        for source, region in _regions(node, place):
            if (found := _match(node, source, region)) is not None:
                change[node] = found
                inside.update(id(n) for n in region)
                break
    return blocks(graph.rewrite(change) if change else graph)


def unrecognized(graph: Graph) -> list[tuple[str, str, str, str]]:
    """Comparisons and choices that are left: origin, operator, reason, advice."""
    return [(n.origin, n.op, _REASON, _ADVICE) for n in graph.nodes() if n.op == "Where" or n.op in _COMPARE]


def _elementwise(node: Node) -> bool:
    """Whether it does the same to every element."""
    if node.op == "Affine":
        scale, shift = array(node, "scale"), array(node, "shift")
        return bool(np.ptp(scale) == 0.0 and np.ptp(shift) == 0.0)
    if node.op in _JOINS or node.op in _COMPARE or node.op == "Where":
        return True
    return node.op in OPS and OPS[node.op].kind == "nonlinear" and node.op not in ("PRelu", "Poly")


def _regions(node: Node, place: Mapping[int, int]) -> Iterator[tuple[Node, list[Node]]]:
    """Regions that end in a node and start at a single source, smallest first, last node first."""
    frontier = {id(node): node}
    region: list[Node] = []
    while len(region) < _LARGEST:
        last = max(frontier.values(), key=lambda n: place[id(n)])
        if not _elementwise(last):
            return
        region.append(last)
        del frontier[id(last)]
        frontier.update((id(i), i) for i in last.inputs)
        if len(frontier) == 1:
            yield next(iter(frontier.values())), list(region)


def _values(source: Node, region: list[Node]) -> FloatArray:
    values = {id(source): _GRID}
    for node in reversed(region):
        values[id(node)] = _apply(node, [values[id(i)] for i in node.inputs])
    return values[id(region[0])]


def _apply(node: Node, operands: list[FloatArray]) -> FloatArray:
    if node.op == "Affine":
        return operands[0] * array(node, "scale").flat[0] + array(node, "shift").flat[0]
    if node.op in _COMPARE:
        return _COMPARE[node.op](operands[0], number(node, "bound"))
    if node.op == "Where":
        given = iter(operands[1:])
        yes, no = (next(given) if np.isnan(number(node, k)) else number(node, k) for k in ("yes", "no"))
        return np.asarray(np.where(operands[0] != 0.0, yes, no), dtype=np.float64)
    return OPS[node.op].apply(node, operands)


def _match(node: Node, source: Node, region: list[Node]) -> Node | None:
    if len(region) < 2 or all(n.op in OPS and OPS[n.op].kind != "nonlinear" for n in region):
        return None
    with np.errstate(all="ignore"):
        values = _values(source, region)
    if not np.isfinite(values).all():
        return None
    for op, parameters in (*_FORMS, *_with_parameters(values)):
        candidate = activation(op, source, node.origin, **parameters)
        wanted = OPS[op].function(candidate)(_GRID)
        if (np.abs(values - wanted) <= _TOLERANCE * (1.0 + np.abs(_GRID))).all():
            return candidate
    return None


def _with_parameters(values: FloatArray) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Of each family the only member that has these values at 1 and -1."""
    at_one, at_minus_one = (float(values[np.searchsorted(_GRID, x)]) for x in (1.0, -1.0))
    if 0.0 < at_one < 1.0:
        rate = float(np.log(at_one / (1.0 - at_one)))
        # A rate of 1 in float32 constants is meant to be 1.
        yield "SiLU", {"rate": 1.0 if abs(rate - 1.0) < _TOLERANCE else rate}
    if at_minus_one < 0.0:
        yield "LeakyRelu", {"alpha": -at_minus_one}
        yield "Elu", {"alpha": at_minus_one / float(np.expm1(-1.0))}


def _read_comparison(call: Call) -> Node:
    """A comparison with one constant: attribute bound."""
    swapped = not isinstance(call.operands[0], Node)
    x, bound = call.node(1 if swapped else 0), call.operands[0 if swapped else 1]
    if of_owner(x) and not isinstance(bound, Node):
        return read_comparison(call)
    if isinstance(bound, Node) or bound is None or bound.size != 1 or bound.ndim > len(x.shape):
        raise UnsupportedOperator(_REASON, hint=_ADVICE)
    return same(x, _FLIPPED[call.op] if swapped else call.op, call.name, bound=float(bound.reshape(-1)[0]))


def _read_where(call: Call) -> Node:
    """A choice by a constant, or by a comparison; attributes yes and no are NaN where an operand stands instead."""
    if not isinstance(call.operands[0], Node) or of_owner(call.operands[0]):
        return read_where(call)
    branches = call.operands[1:3]
    constants = [
        np.nan if isinstance(b, Node) else float(b.reshape(-1)[0]) if b is not None and b.size == 1 else None
        for b in branches
    ]
    operands = (call.node(0), *(b for b in branches if isinstance(b, Node)))
    if None in constants or any(o.shape != operands[0].shape for o in operands):
        raise UnsupportedOperator(_REASON, hint=_ADVICE)
    return Node("Where", operands, operands[0].shape, {"yes": constants[0], "no": constants[1]}, call.name)


READERS: Mapping[str, Reader] = {
    **dict.fromkeys(_FLIPPED, Reader(_read_comparison, 16)),
    "Where": Reader(_read_where, 16, infinite=True),
}
"""ONNX operators that only stand inside activations."""
