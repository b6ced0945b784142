"""Fold: everything linear between two nonlinearities becomes one affine map.

BatchNorm, pooling, reshapes, residual additions, domain maps of the activations, the completed
square's scale and shift, and the normalization of every value to about [-1, 1] all end up inside
the matrices. A degree-two activation costs one level: w2 x^2 + w1 x + w0 = s (a x + b)^2 + c with
a, b folded into the map before and s, c into the map after (also used by PAPER, arXiv 2509.22857).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from pi_compiler.approx.poly import Poly
from pi_compiler.approx.square import complete_square
from pi_compiler.errors import InternalError
from pi_compiler.ir.graph import FloatArray, Graph, Node, Shape
from pi_compiler.ir.stages import Affine, InputStage, Matrix, Polynomial, Product, Square, Stage
from pi_compiler.ops import OPS
from pi_compiler.passes.compilation import Ranges

_GROWTH = 3.0  # composing two maps may at most multiply their nonzeros by this; beyond it a level is cheaper
_VERTEX = 32.0  # times the data's reach; at this distance a completed square loses five bits
_FEW_ROWS = 128  # a map to so few values has no more diagonals than this (hybrid embedding), however dense
_ROWS, _ALIKE = 3, 2.0
"""In tensors of so many dimensions channels may be rows, as tokens. Where they reach about as far they share a unit:
that takes a bit at most, and weights that are the same for all rows stay the same, which makes numbers of diagonals."""


@dataclass(frozen=True, slots=True, eq=False)
class Expr:
    """An affine expression over stage values: sum_i terms[i] @ value_i + bias."""

    terms: dict[int, Matrix]
    bias: FloatArray

    @property
    def nnz(self) -> int:
        return sum(m.nnz for m in self.terms.values())

    def scaled(self, factor: FloatArray | float, shift: FloatArray | float = 0.0) -> Expr:
        """Factor * expr + shift, elementwise."""
        factor = np.broadcast_to(np.asarray(factor, dtype=np.float64), self.bias.shape)
        scale = sparse.diags_array(factor)
        return Expr({i: sparse.csr_array(scale @ m) for i, m in self.terms.items()}, self.bias * factor + shift)


def diagonal_of(m: Matrix) -> FloatArray | None:
    """The diagonal if the matrix has nothing else."""
    if m.shape[0] != m.shape[1]:
        return None
    coo = m.tocoo()
    return np.asarray(m.diagonal()) if bool((coo.row == coo.col).all()) else None


class Folder:
    """Walks a graph: an affine expression per node, stages where something is not linear."""

    def __init__(self, graph: Graph, ranges: Ranges) -> None:
        self.ranges = ranges
        self.stages: list[Stage] = []
        self.exprs: dict[int, Expr] = {}
        self.values: dict[int, tuple[int, float]] = {}
        for node in graph.nodes():
            self.exprs[id(node)] = self.node(node)
        self.outputs: dict[str, tuple[int, float]] = {}
        for name, node in zip(graph.output_names, graph.outputs, strict=True):
            self.outputs[name] = self.value(node)

    def push(self, stage: Stage) -> int:
        self.stages.append(stage)
        return len(self.stages) - 1

    def atom(self, number: int) -> Expr:
        """The expression that is just one stage's value."""
        size = int(np.prod(self.stages[number].shape))
        return Expr({number: sparse.csr_array(sparse.eye_array(size))}, np.zeros(size))

    def materialize(self, expr: Expr, shape: Shape, origin: str, always: bool = False) -> int:
        """A stage whose value is the expression; none is added if it is a stage's value already."""
        if len(expr.terms) == 1 and not expr.bias.any() and not always:
            ((number, matrix),) = expr.terms.items()
            diagonal = diagonal_of(matrix)
            if diagonal is not None and bool((diagonal == 1.0).all()):
                return number
        # Explicit zeros would count as diagonals, an operand without any other entry as a source.
        for matrix in expr.terms.values():
            matrix.eliminate_zeros()
        numbers = tuple(n for n, m in expr.terms.items() if m.nnz) or tuple(expr.terms)[:1]
        return self.push(Affine(numbers, tuple(expr.terms[n] for n in numbers), expr.bias, shape, origin))

    def compose(self, parts: list[tuple[Matrix, Expr, Node]], bias: FloatArray) -> Expr:
        terms: dict[int, Matrix] = {}
        for matrix, inner, node in parts:
            composed = {n: sparse.csr_array(matrix @ m) for n, m in inner.terms.items()}
            grown = sum(m.nnz for m in composed.values()) > _GROWTH * (matrix.nnz + inner.nnz)
            if grown and matrix.shape[0] > _FEW_ROWS:
                number, gain = self.value(node)
                composed = {number: matrix * gain}
            else:
                bias = bias + matrix @ inner.bias
            terms = merged(terms, composed)
        return Expr(terms, bias)

    def value(self, node: Node) -> tuple[int, float]:
        """A stage holding a node's value divided by the returned gain."""
        if id(node) not in self.values:
            gain = power_gain(self.ranges.of(node).magnitude)
            expr = self.exprs[id(node)].scaled(1.0 / gain)
            self.values[id(node)] = self.materialize(expr, node.shape, node.origin), gain
        return self.values[id(node)]

    def node(self, node: Node) -> Expr:
        if node.op == "Input":
            gain = power_gain(self.ranges.of(node).magnitude)
            number = self.push(InputStage(node.origin, node.shape, gain, node.origin))
            return self.atom(number).scaled(gain)
        op = OPS[node.op]
        inputs = [self.exprs[id(i)] for i in node.inputs]
        if op.kind == "linear":
            matrices, bias = op.matrix(node)
            return self.compose(list(zip(matrices, inputs, node.inputs, strict=True)), bias)
        if op.kind == "product":
            return self.product(node, inputs)
        if node.op != "Poly":
            raise InternalError(f"activation {node.origin!r} ({node.op}) reached fold without a replacement")
        return self.activation(node, inputs[0])

    def product(self, node: Node, inputs: list[Expr]) -> Expr:
        (left, left_gain), (right, right_gain) = (self.value(operand) for operand in node.inputs)
        if self.root(left) != self.root(right) and not isinstance(self.stages[right], Affine):
            # Only a map of its own can take the other operand's layout.
            expr = self.exprs[id(node.inputs[1])].scaled(1.0 / right_gain)
            right = self.materialize(expr, node.shape, node.inputs[1].origin, always=True)
        number = self.push(Product(left, right, node.shape, node.origin))
        return self.atom(number).scaled(left_gain * right_gain)

    def root(self, number: int) -> int:
        """The map or input whose layout a stage's value has."""
        stage = self.stages[number]
        while isinstance(stage, Square | Polynomial | Product):
            number = stage.left if isinstance(stage, Product) else stage.source
            stage = self.stages[number]
        return number

    def activation(self, node: Node, x: Expr) -> Expr:
        poly = ActivationPolynomial.of(node)
        degree = poly.degree
        if degree <= 1:
            return x.scaled(poly.spread(poly.power(1)), poly.spread(poly.power(0)))
        if degree == 2:
            return self.square(node, poly, x)
        low, high = poly.domain
        center, half = poly.spread((low + high) / 2), poly.spread((high - low) / 2)
        number = self.materialize(x.scaled(1.0 / half, -center / half), node.shape, node.inputs[0].origin)
        if not center.any() and bool((half == half[0]).all()):
            self.values.setdefault(id(node.inputs[0]), (number, float(half[0])))
        shared = poly.shared()
        # Stages of a composite reach 1 exactly: rounding must not double their gain, and with it their scale.
        reach = (1 - 1e-9) * float(np.abs(shared(np.linspace(-1.0, 1.0, 4001))).max())
        gain = self.wished(node) or power_gain(reach) or 1.0
        unit = Poly("chebyshev", tuple(c / gain for c in shared.coef), (-1.0, 1.0))
        return self.atom(self.push(Polynomial(number, unit, node.shape, node.origin))).scaled(gain)

    def wished(self, node: Node) -> float | None:
        """What a polynomial's value should be divided by, where its readers care."""
        return None

    def square(self, node: Node, poly: ActivationPolynomial, x: Expr) -> Expr:
        """S (a x + b)^2 + c with a x + b divided by its largest calibrated magnitude."""
        low, high = self.ranges.of(node.inputs[0]).channels
        reach = np.maximum(np.abs(low), np.abs(high))
        w0, w1, w2 = np.broadcast_arrays(poly.power(0), poly.power(1), poly.power(2))
        if not w2.any():
            return x.scaled(poly.spread(w1), poly.spread(w0))
        form = complete_square(w0, w1, w2, reach=_VERTEX * float(reach.max()))
        near = form.square
        # A vertex far outside the data would bury them under its own square. Such a channel squares
        # its bare value and takes its line from the same operand: exact, but a second set of diagonals.
        scale, shift = np.where(near, form.scale, 1.0), np.where(near, form.shift, 0.0)
        largest = np.maximum(np.abs(scale * low + shift), np.abs(scale * high + shift))
        # A channel that calibration hardly moved keeps room for values it did not show.
        unit = np.maximum(largest, 0.1 * largest.max()) if largest.any() else np.ones_like(largest)
        if len(node.shape) == _ROWS and w2.size == 1 and unit.max() <= _ALIKE * unit.min():
            unit = np.full_like(unit, unit.max())
        inner = x.scaled(poly.spread(scale / unit), poly.spread(shift / unit))
        number = self.materialize(inner, node.shape, node.inputs[0].origin)
        squared = self.atom(self.push(Square(number, node.shape, node.origin)))
        outer, constant = np.where(near, form.sign, w2) * unit**2, np.where(near, form.constant, w0)
        squared = squared.scaled(poly.spread(outer), poly.spread(constant))
        if near.all():
            return squared
        line = self.atom(number).scaled(poly.spread(np.where(near, 0.0, w1 * unit)))
        return Expr(merged(squared.terms, line.terms), squared.bias)


def merged(a: Mapping[int, Matrix], b: Mapping[int, Matrix]) -> dict[int, Matrix]:
    """Terms added, matrix by matrix."""
    terms = dict(a)
    for n, m in b.items():
        terms[n] = sparse.csr_array(terms[n] + m) if n in terms else m
    return terms


@dataclass(frozen=True, slots=True, eq=False)
class ActivationPolynomial:
    """A ``Poly`` node's polynomial: one, or one per channel.

    Attributes:
        basis: ``"power"`` or ``"chebyshev"``.
        coef: (degree+1, channels) with one column if all channels share it.
        low: per channel, lower end of the domain.
        high: per channel, upper end.
        shape: the activation's shape; channels are axis 1.
    """

    basis: str
    coef: FloatArray
    low: FloatArray
    high: FloatArray
    shape: Shape

    @staticmethod
    def of(node: Node) -> ActivationPolynomial:
        """Read a ``Poly`` node's attributes."""
        coef = np.asarray(node.attrs["coef"], dtype=np.float64)
        domain = np.asarray(node.attrs["domain"], dtype=np.float64)
        coef = coef[:, None] if coef.ndim == 1 else coef
        domain = domain[:, None] if domain.ndim == 1 else domain
        return ActivationPolynomial(str(node.attrs["basis"]), coef, domain[0], domain[1], node.shape)

    @property
    def domain(self) -> tuple[FloatArray, FloatArray]:
        """Lower and upper ends, per channel or shared."""
        return self.low, self.high

    @property
    def degree(self) -> int:
        """Largest degree over the channels."""
        used = np.flatnonzero(self.coef.any(axis=1))
        return int(used[-1]) if used.size else 0

    def power(self, k: int) -> FloatArray:
        """Coefficient of x^k in the power basis, per channel; degree at most two."""
        c = np.zeros((3, self.coef.shape[1]))
        c[: min(3, len(self.coef))] = self.coef[:3]
        if self.basis == "power":
            return np.asarray(c[k])
        half, center = (self.high - self.low) / 2, (self.high + self.low) / 2
        # T_1(u) = u, T_2(u) = 2u^2 - 1 with u = (x - center)/half
        u2, u1, u0 = 2 * c[2], c[1], c[0] - c[2]
        return np.asarray(
            [u0 - u1 * center / half + u2 * (center / half) ** 2, u1 / half - 2 * u2 * center / half**2, u2 / half**2][
                k
            ]
        )

    def shared(self) -> Poly:
        """The one polynomial in T_k on [-1, 1] that all channels use after their domain maps.

        Raises:
            InternalError: channels differ in more than their domain.
        """
        if self.coef.shape[1] != 1:
            raise InternalError("channels with different polynomials above degree two share no evaluation")
        coef = tuple(float(c) for c in self.coef[:, 0])
        if self.basis == "power":
            own = Poly("power", coef, (float(self.low[0]), float(self.high[0])))
            coef = own.to("chebyshev").coef
        return Poly("chebyshev", coef, (-1.0, 1.0))

    def spread(self, per_channel: FloatArray) -> FloatArray:
        """Per-channel values repeated for every element, flat."""
        size = int(np.prod(self.shape))
        if per_channel.size == 1:
            return np.full(size, float(per_channel.reshape(-1)[0]))
        view = per_channel.reshape(1, -1, *([1] * (len(self.shape) - 2)))
        return np.broadcast_to(view, self.shape).ravel().astype(np.float64)


def power_gain(magnitude: float) -> float:
    """The smallest power of two not below a magnitude: dividing by it is exact."""
    return float(2.0 ** np.ceil(np.log2(magnitude))) if magnitude > 0 else 1.0
