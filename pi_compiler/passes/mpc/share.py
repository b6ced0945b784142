"""Share: from the replaced graph to a program on shares.

Nodes are visited front to back. Elements that nobody reads, because every reader multiplies them by zero,
are not computed: a ReLU under a mask of zeros and ones is gathered by a public index, compared once, and
put back, so that ten percent of the comparisons cost ten percent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pi_compiler.approx.poly import Approximant, Piecewise, Poly
from pi_compiler.errors import InternalError, UnsupportedOperator
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ir.mpc_program import DATA_PARTY, MpcPort, MpcProgram
from pi_compiler.ops import OPS
from pi_compiler.ops.elementwise import poly_operands
from pi_compiler.ops.op import array, number
from pi_compiler.passes.compilation import Precision
from pi_compiler.passes.mpc.build import Builder
from pi_compiler.passes.mpc.functions import Lazy, function, polynomial
from pi_compiler.passes.mpc.joint import JOINT, Deal, joint
from pi_compiler.passes.mpc.linear import LINEAR, MOVEMENTS, linear

_EVERYWHERE = (-1.0, 1.0)


def share(graph: Graph, precision: Precision, protocol: str, deal: Deal, *, private: bool, low: int = 0) -> MpcProgram:
    """The program of a graph whose nonlinearities are exact pieces, polynomials, or have a lowering of their own.

    Args:
        graph: the replaced network.
        precision: fractional bits.
        protocol: name, for the program's record.
        deal: decides between fewer rounds and fewer bytes.
        private: weights are the model owner's secret.
        low: bits that comparisons may leave out.

    Raises:
        UnsupportedOperator: naming every node that cannot be lowered.
    """
    builder = Builder(precision.frac, precision.weight_frac, private=private, low=low)
    return _Share(graph, builder, deal).program(protocol)


class _Share:
    """One lowering."""

    def __init__(self, graph: Graph, builder: Builder, deal: Deal) -> None:
        self.graph, self.b, self.deal = graph, builder, deal
        self.lazy: dict[int, Lazy] = {}
        self.readers: dict[int, list[Node]] = {id(n): [] for n in graph.nodes()}
        for node in graph.nodes():
            for operand in node.inputs:
                self.readers[id(operand)].append(node)
        self.outputs = {id(n) for n in graph.outputs}

    def program(self, protocol: str) -> MpcProgram:
        """Everything."""
        inputs: dict[str, MpcPort] = {}
        faults: list[str] = []
        for node in self.graph.nodes():
            self.b.at(node.origin)
            try:
                if node.op == "Input":
                    inputs[node.origin] = self.port(node)
                else:
                    self.lazy[id(node)] = self.lower(node)
            except UnsupportedOperator as error:
                faults.append("; ".join((error.what, *error.details)))
                self.lazy[id(node)] = Lazy(self.b.input(node.shape))
        if faults:
            raise UnsupportedOperator(f"{len(faults)} layers cannot run under {protocol}", *faults)
        outputs, client = {}, {}
        given = self.graph.client_ops or ((),) * len(self.graph.outputs)
        for name, node, ops in zip(self.graph.output_names, self.graph.outputs, given, strict=True):
            self.b.at(node.origin)
            value = self.lazy[id(node)].made(self.b)
            outputs[name] = MpcPort(self.b.reveal(value, DATA_PARTY), node.shape)
            client[name] = tuple((op, dict(attrs)) for op, attrs in ops)
        return self.b.program(inputs, outputs, protocol, client)

    def port(self, node: Node) -> MpcPort:
        """An input; class numbers that are only looked up are shared as one-hot rows."""
        readers = self.readers[id(node)]
        tables = {array(r, "table").shape[0] for r in readers if r.op == "Embedding"}
        if not tables:
            value, classes = self.b.input(node.shape), 0
        elif len(tables) == 1 and all(r.op == "Embedding" for r in readers):
            (classes,) = tables
            value = self.b.input((*node.shape, classes), 0)
        else:
            raise UnsupportedOperator(
                f"input {node.origin!r} is looked up in tables of {sorted(tables)} rows and read by other layers too"
            )
        self.lazy[id(node)] = Lazy(value)
        return MpcPort(value, node.shape, classes=classes)

    def lower(self, node: Node) -> Lazy:
        """One node; a lazy result that several layers read is computed once, where a computation is needed."""
        operands = [self.lazy[id(i)] for i in node.inputs]
        if node.op in LINEAR or node.op in MOVEMENTS:
            return linear(self.b, node, operands)
        if node.op == "Mul":
            return Lazy(self.b.mul(self.made(node.inputs[0]), self.made(node.inputs[1])))
        if node.op in JOINT:
            return joint(self.b, node, [self.made(i) for i in node.inputs], self.deal)
        if node.op in OPS and OPS[node.op].kind == "nonlinear":
            return self.elementwise(node)
        raise UnsupportedOperator(f"{node.op} {node.origin!r} has no lowering to shares")

    def made(self, node: Node) -> int:
        """The computed value of a node."""
        value = self.lazy[id(node)].made(self.b)
        self.lazy[id(node)] = Lazy(value)
        return value

    def elementwise(self, node: Node) -> Lazy:
        """A function of each element; only of those that somebody reads."""
        x, kept = self.made(node.inputs[0]), self.kept(node)
        if kept is None:
            return self.apply(node, x, None)
        if not kept.size:
            return Lazy(x, np.zeros(()))
        part = self.b.gather((x,), kept, (kept.size,))
        found = self.apply(node, part, kept).made(self.b)
        places = np.full(node.size, -1)
        places[kept] = np.arange(kept.size)
        return Lazy(self.b.gather((found,), places, node.shape))

    def kept(self, node: Node) -> NDArray[np.int64] | None:
        """The elements that some reader does not multiply by zero; None for all."""
        if id(node) in self.outputs or not self.readers[id(node)]:
            return None
        wanted = np.zeros(node.shape, bool)
        for reader in self.readers[id(node)]:
            if reader.op != "Affine":
                return None
            wanted |= np.broadcast_to(array(reader, "scale") != 0.0, node.shape)
        return None if wanted.all() else np.flatnonzero(wanted)

    def apply(self, node: Node, x: int, kept: NDArray[np.int64] | None) -> Lazy:
        """The node's function of a value; of the kept elements, where parameters differ between elements."""
        if node.op in ("Poly", "Square", "Pow"):
            coef, low, high, series = _polynomial(node)
            if kept is not None:
                coef = _picked(coef, node, kept, True)
                low, high = (_picked(v, node, kept, False) for v in (low, high))
            return polynomial(self.b, x, coef, low, high, series)
        if node.op == "PRelu":
            slope = np.broadcast_to(array(node, "slope"), node.shape)
            slope = slope.reshape(-1)[kept] if kept is not None else slope
            above = function(self.b, x, RELU).made(self.b)
            return Lazy(self.b.combine([(above, 1.0 - slope), (x, slope)]))
        return function(self.b, x, approximant(node))


def _polynomial(node: Node) -> tuple[FloatArray, FloatArray, FloatArray, bool]:
    if node.op == "Poly":
        coef, low, high = poly_operands(node)
        return coef, np.asarray(low), np.asarray(high), node.attrs["basis"] == "chebyshev"
    powers = OPS[node.op].polynomial(node)
    if powers is None:
        raise UnsupportedOperator(f"{node.op} {node.origin!r} with exponent {number(node, 'exponent'):g}")
    return np.asarray(powers), np.asarray(_EVERYWHERE[0]), np.asarray(_EVERYWHERE[1]), False


def _picked(values: FloatArray, node: Node, kept: NDArray[np.int64], lead: bool) -> FloatArray:
    """Constants of the kept elements; with ``lead`` each entry along the first axis broadcasts to the node."""
    if values.ndim <= lead:
        return values
    shape = (len(values), *node.shape) if lead else node.shape
    ones = (1,) * (len(shape) - values.ndim)
    spread = values.reshape(*values.shape[:lead], *ones, *values.shape[lead:])
    return np.ascontiguousarray(np.broadcast_to(spread, shape).reshape(*shape[:lead], -1)[..., kept])


RELU = Piecewise((0.0,), (Poly("power", (0.0,), _EVERYWHERE), Poly("power", (0.0, 1.0), _EVERYWHERE)), _EVERYWHERE)


def approximant(node: Node) -> Approximant:
    """What computes a nonlinearity: a fit in its place, or the function itself where it has linear pieces.

    Raises:
        UnsupportedOperator: it is neither.
    """
    if node.op == "Approximant":
        found = node.attrs["approx"]
        if not isinstance(found, Approximant):
            raise InternalError(f"{node!r} holds no approximant")
        return found
    pieces = exact_pieces(node)
    if pieces is None:
        raise UnsupportedOperator(f"{node.op} {node.origin!r} has no exact form on shares")
    return pieces


def exact_pieces(node: Node) -> Piecewise | None:
    """A function that consists of polynomial pieces; None if it does not."""

    def line(*coef: float) -> Poly:
        return Poly("power", coef, _EVERYWHERE)

    match node.op:
        case "Relu":
            return RELU
        case "LeakyRelu":
            return Piecewise((0.0,), (line(0.0, number(node, "alpha")), line(0.0, 1.0)), _EVERYWHERE)
        case "Abs":
            return Piecewise((), (line(0.0, 1.0),), _EVERYWHERE, fold=True)
        case "Clip":
            ends = [(number(node, "min"), 0), (number(node, "max"), 1)]
            breaks = tuple(t for t, _ in ends if np.isfinite(t))
            pieces = [line(0.0, 1.0)]
            if np.isfinite(ends[0][0]):
                pieces.insert(0, line(ends[0][0]))
            if np.isfinite(ends[1][0]):
                pieces.append(line(ends[1][0]))
            return Piecewise(breaks, tuple(pieces), _EVERYWHERE)
        case "HardSigmoid":
            alpha, beta = number(node, "alpha"), number(node, "beta")
            if alpha <= 0.0:
                return None
            return Piecewise(
                (-beta / alpha, (1.0 - beta) / alpha), (line(0.0), line(beta, alpha), line(1.0)), _EVERYWHERE
            )
        case "HardSwish":
            alpha, beta = number(node, "alpha"), number(node, "beta")
            if alpha <= 0.0:
                return None
            ends_of = (-beta / alpha, (1.0 - beta) / alpha)
            return Piecewise(ends_of, (line(0.0), Poly("power", (0.0, beta, alpha), ends_of), line(0.0, 1.0)), ends_of)
        case _:
            return None
