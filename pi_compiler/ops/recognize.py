"""Finds activations that an exporter wrote out as several operators.

A region of elementwise operators between two nodes is a function of one variable. Whatever way it is
written, it is evaluated on a grid and compared with the activations that frameworks decompose: both
forms of GELU, SiLU (also x sigmoid(r x)), Mish, HardSwish, HardSigmoid, Softsign.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops import OPS
from pi_compiler.ops.elementwise import activation
from pi_compiler.ops.op import array

_LARGEST = 24  # operators in a region; GELU's tanh form takes nine
_GRID = np.linspace(-9.0, 9.0, 145)
_TOLERANCE = 1e-6  # float32 constants of the exporters, far below the distance between any two forms
_ENDS = frozenset({"Mul", "Affine", "Reciprocal"})
_JOINS = frozenset({"Mul", "Add", "Sub"})

_FORMS: tuple[tuple[str, Mapping[str, float]], ...] = (
    ("Gelu", {}),
    ("GeluTanh", {}),
    ("Mish", {}),
    ("HardSwish", {"alpha": 1.0 / 6.0, "beta": 0.5}),
    ("HardSigmoid", {"alpha": 1.0 / 6.0, "beta": 0.5}),
    ("Sigmoid", {}),
    ("Softsign", {}),
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
    return graph.rewrite(change) if change else graph


def _elementwise(node: Node) -> bool:
    """Whether it does the same to every element."""
    if node.op == "Affine":
        scale, shift = array(node, "scale"), array(node, "shift")
        return bool(np.ptp(scale) == 0.0 and np.ptp(shift) == 0.0)
    if node.op in _JOINS:
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
        operands = [values[id(i)] for i in node.inputs]
        if node.op == "Affine":
            scale, shift = array(node, "scale").flat[0], array(node, "shift").flat[0]
            values[id(node)] = operands[0] * scale + shift
        else:
            values[id(node)] = OPS[node.op].apply(node, operands)
    return values[id(region[0])]


def _match(node: Node, source: Node, region: list[Node]) -> Node | None:
    if len(region) < 2 or not any(OPS[n.op].kind == "nonlinear" for n in region):
        return None
    with np.errstate(all="ignore"):
        values = _values(source, region)
    if not np.isfinite(values).all():
        return None
    for op, parameters in (*_FORMS, *_silu(values)):
        candidate = activation(op, source, node.origin, **parameters)
        wanted = OPS[op].function(candidate)(_GRID)
        if (np.abs(values - wanted) <= _TOLERANCE * (1.0 + np.abs(_GRID))).all():
            return candidate
    return None


def _silu(values: FloatArray) -> Iterator[tuple[str, Mapping[str, float]]]:
    """The only SiLU with that value at 1: x sigmoid(rate x)."""
    at_one = float(values[np.searchsorted(_GRID, 1.0)])
    if 0.0 < at_one < 1.0:
        rate = float(np.log(at_one / (1.0 - at_one)))
        # A rate of 1 in float32 constants is meant to be 1.
        yield "SiLU", {"rate": 1.0 if abs(rate - 1.0) < 1e-6 else rate}
