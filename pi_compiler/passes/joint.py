"""Folding networks with products of two values: which operand is where it is, which one moves to meet it.

A product of matrices, or of a tensor with a factor per row, becomes one ``Contract``. Levels are saved where they can
be: an operand that is computed already is taken as it is, and the other one's affine map, which is there anyway, brings
it to where the first one sits; the sum in a denominator is made by rotations; and every factor that a reciprocal wants
in front of its argument is put into the maps before the product that the argument comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pi_compiler.approx.formula import FormulaPlan, plan_formula
from pi_compiler.approx.poly import Formula
from pi_compiler.errors import InternalError
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ir.stages import Affine, Contract, InputStage, Iterated, Polynomial, Product, Reduce, Square
from pi_compiler.kernels.circuit import depth_of
from pi_compiler.ops import OPS
from pi_compiler.ops.op import array, ints
from pi_compiler.passes.compilation import Ranges
from pi_compiler.passes.folder import ActivationPolynomial, Expr, Folder, diagonal_of, power_gain

_SUMS = ("ReduceSum", "ReduceMean")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_EXACT = 1e-9


def has_axes(graph: Graph) -> bool:
    """Whether a graph has products of matrices, iterations or sums by rotations, for which axes matter."""
    return any(n.op in ("Dot", "Approximant") or "rotations" in n.attrs for n in graph.nodes())


def streams_of(graph: Graph) -> frozenset[int]:
    """The last sums, behind a product of matrices, that both operands of a next product are linear in."""
    order = list(graph.nodes())
    behind: set[int] = set()
    for node in order:
        if any(i.op == "Dot" or id(i) in behind for i in node.inputs):
            behind.add(id(node))
    feeds: dict[int, set[tuple[int, int]]] = {id(n): set() for n in order}
    found: set[int] = set()
    leads: set[int] = set()
    for node in reversed(order):
        # Operands of products that a node leads to by linear steps alone, both of one product for a stream.
        sides = feeds[id(node)]
        both = any((number, 1 - side) in sides for number, side in sides)
        if node.op == "Add" and id(node) in behind and both and id(node) not in leads:
            found.add(id(node))
            leads.update(id(i) for i in node.inputs)
        for side, operand in enumerate(node.inputs):
            if node.op == "Dot":
                feeds[id(operand)].add((id(node), side))
            elif OPS[node.op].kind == "linear":
                feeds[id(operand)] |= sides
                if id(node) in leads:
                    leads.add(id(operand))
    return frozenset(found)


class JointFolder(Folder):
    """See the module's text.

    Args:
        graph: with polynomial activations.
        ranges: of all its values.
        direct: see ``fold.folded``.
        streams: see ``fold.folded``.
    """

    def __init__(self, graph: Graph, ranges: Ranges, *, direct: bool, streams: bool = False) -> None:
        self.direct = direct
        self.streams = streams_of(graph) if streams else frozenset()
        self.wanted: dict[int, float] = {}
        self.rotated: set[int] = set()
        self.promised: set[int] = set()
        for node in graph.nodes():
            if node.op == "Approximant" and direct:
                self.demand(node)
            if "rotations" in node.attrs and direct:
                self.rotated.add(id(node))
        super().__init__(graph, ranges)
        for name, (number, gain) in self.outputs.items():
            stage = self.stages[number]
            if not isinstance(stage, Affine):
                # Slots beside a result may hold partial sums, which nobody is to decrypt.
                own = self.materialize(self.atom(number), stage.shape, stage.origin, always=True)
                self.outputs[name] = own, gain

    def demand(self, node: Node) -> None:
        """Note the gains that let an iteration read a sum over axes without a level in between."""
        x, factor = node.inputs[0], formula_plan(node).slope
        while x.op == "Affine" and array(x, "scale").size == 1 and array(x, "shift").size == 1:
            factor *= float(array(x, "scale").reshape(-1)[0])
            x = x.inputs[0]
        if x.op not in _SUMS or factor <= 0.0:
            return
        terms = x.inputs[0]
        factor /= terms.size / x.size if x.op == "ReduceMean" else 1.0
        self.rotated.add(id(x))
        if "full" not in node.attrs:
            self.want(terms, 1.0 / factor)

    def want(self, node: Node, gain: float) -> None:
        """Note a gain for a value, and for what it is a power of."""
        self.wanted[id(node)] = gain
        power = power_of(node)
        if power is not None:
            degree, coefficient, _ = power
            self.want(node.inputs[0], (gain / coefficient) ** (1.0 / degree))

    def wished(self, node: Node) -> float | None:
        return self.wanted.get(id(node))

    def gain(self, node: Node) -> float:
        """What a node's value is divided by in its stage."""
        return self.wanted.get(id(node)) or power_gain(self.ranges.of(node).magnitude)

    def node(self, node: Node) -> Expr:
        if node.op == "Dot":
            return self.dot(node)
        if node.op == "Approximant":
            return self.iterated(node, self.exprs[id(node.inputs[0])])
        if id(node) in self.rotated:
            found = self.reduced(node)
            if found is not None:
                return found
        if (x := centered(node)) is not None:
            return self.without_mean(node, x)
        expr = super().node(node)
        if id(node) in self.streams and len(expr.terms) > 1:
            gain = power_gain(self.ranges.of(node).magnitude)
            return self.atom(self.materialize(expr.scaled(1.0 / gain), node.shape, node.origin)).scaled(gain)
        return expr

    def without_mean(self, node: Node, x: Node) -> Expr:
        """A value less its mean, as one map of what the value is made of: no more nonzeros than a dense layer's."""
        (whole, part), _ = OPS["Sub"].matrix(node)
        spread, _ = OPS["Expand"].matrix(node.inputs[1])
        mean, _ = OPS["ReduceMean"].matrix(node.inputs[1].inputs[0])
        return self.compose([(whole + part @ spread[0] @ mean[0], self.exprs[id(x)], x)], np.zeros(node.size))

    def held(self, node: Node) -> tuple[int, float] | None:
        """A stage that holds a node's value, divided by a gain, if one does."""
        if id(node) in self.values:
            return self.values[id(node)]
        expr = self.exprs[id(node)]
        if len(expr.terms) != 1 or expr.bias.any():
            return None
        ((number, matrix),) = expr.terms.items()
        diagonal = diagonal_of(matrix)
        if diagonal is None or not diagonal[0] or not np.allclose(diagonal, diagonal[0], rtol=_EXACT, atol=0.0):
            return None
        return number, float(diagonal[0])

    # Products.

    def dot(self, node: Node) -> Expr:
        """A product of matrices, of a stack of them broadcast by numpy's rules."""
        left, right = node.inputs
        rank = len(node.shape)
        stack, row, column, inner = _LETTERS[: rank - 2], *list(_LETTERS[rank - 2 : rank + 1])
        axes = (
            (left, named(left, stack[rank - len(left.shape) :] + row + inner)),
            (right, named(right, stack[rank - len(right.shape) :] + inner + column)),
        )
        return self.contract(node, axes, named(node, stack + row + column))

    def product(self, node: Node, inputs: list[Expr]) -> Expr:
        letters = _LETTERS[: len(node.shape)]
        axes = []
        for operand in node.inputs:
            own = operand.inputs[0] if operand.op == "Expand" else operand
            axes.append((own, named(own, letters[len(letters) - len(own.shape) :])))
        return self.contract(node, (axes[0], axes[1]), named(node, letters))

    def contract(self, node: Node, operands: tuple[tuple[Node, str], tuple[Node, str]], out: str) -> Expr:
        """The stage of a product with named axes; the left operand's layout comes first, the right one follows."""
        if self.moves_better(operands[0][0], operands[1][0]):
            operands = operands[1], operands[0]
        (a, first), (b, second) = operands
        left = self.held(a) or self.mapped(a, power_gain(self.ranges.of(a).magnitude))
        right = self.held(b)
        if right is None:
            right = self.mapped(b, self.gain(node) / left[1])
        elif not self.meets(left[0], right[0]):
            right = self.moved(b, *right)
        self.promised.add(self.root(right[0]))
        sizes = {**sizes_of(a, first), **sizes_of(b, second)}
        number = self.push(Contract(left[0], right[0], (first, second, out), sizes, node.shape, node.origin))
        return self.atom(number).scaled(left[1] * right[1])

    def mapped(self, node: Node, gain: float) -> tuple[int, float]:
        """An affine map of its own for a value."""
        expr = self.exprs[id(node)].scaled(1.0 / gain)
        return self.materialize(expr, node.shape, node.origin, always=True), gain

    def moves_better(self, a: Node, b: Node) -> bool:
        """Whether the first of two operands should be the one that moves: the one that is not computed yet, if any."""
        left, right = self.held(a), self.held(b)
        if left is None or right is None:
            return left is None and right is not None
        if self.meets(left[0], right[0]) or self.meets(right[0], left[0]):
            return not self.meets(left[0], right[0])
        return (self.chain(left[0]) is None, self.depth(left[0])) < (self.chain(right[0]) is None, self.depth(right[0]))

    def meets(self, left: int, right: int) -> bool:
        """Whether a right operand may stay: it is where the left one is, or its map is still to be laid out for it."""
        if not self.direct:
            return False
        chain = self.chain(right)
        if self.root(left) == self.root(right):
            return True
        map_number = self.root(right)
        return chain is not None and map_number > left and map_number not in self.promised

    def moved(self, node: Node, number: int, gain: float) -> tuple[int, float]:
        """The value computed once more, later, where its map may take any layout; else one more map of it."""
        chain = self.chain(number)
        if chain is None:
            expr = self.atom(number)
            return self.materialize(expr, node.shape, node.origin, always=True), gain
        for stage in reversed(chain):
            number = self.push(stage if isinstance(stage, Affine) else replace(stage, source=number))
        return number, gain

    def chain(self, number: int) -> list[Affine | Square | Polynomial | Iterated] | None:
        """A stage's element-wise predecessors down to an affine map; None if they lead elsewhere."""
        found: list[Affine | Square | Polynomial | Iterated] = []
        while True:
            stage = self.stages[number]
            match stage:
                case Affine():
                    return [*found, stage]
                case Square() | Polynomial() | Iterated():
                    found.append(stage)
                    number = stage.source
                case _:
                    return None

    def depth(self, number: int) -> int:
        """Levels that a stage's value has consumed."""
        stage = self.stages[number]
        match stage:
            case InputStage():
                return 0
            case Affine():
                return 1 + max(self.depth(s) for s in stage.sources)
            case Product() | Contract():
                return 1 + max(self.depth(stage.left), self.depth(stage.right))
            case _:
                return depth_of(stage) + self.depth(stage.source)

    def root(self, number: int) -> int:
        while True:
            stage = self.stages[number]
            match stage:
                case Square() | Polynomial() | Iterated() | Reduce():
                    number = stage.source
                case Product() | Contract():
                    number = stage.left
                case _:
                    return number

    # Denominators.

    def reduced(self, node: Node) -> Expr | None:
        """A sum over axes by rotations, where the terms are a stage of their own."""
        terms, axes = node.inputs[0], ints(node, "axes")
        held = self.held(terms)
        scaled = (held[0], held[1], 0.0) if held is not None else self.per_row(terms, axes)
        if scaled is None or isinstance(self.stages[scaled[0]], Affine | InputStage):
            return None
        letters = _LETTERS[: len(terms.shape)]
        inner = named(terms, letters)
        out = "".join(a for a in inner if letters.index(a) not in axes)
        number = self.push(Reduce(scaled[0], (inner, out), sizes_of(terms, inner), node.shape, node.origin))
        mean = terms.size / node.size if node.op == "ReduceMean" else 1.0
        return self.atom(number).scaled(scaled[1] / mean, scaled[2] / mean)

    def per_row(self, terms: Node, axes: tuple[int, ...]) -> tuple[int, FloatArray, FloatArray] | None:
        """A stage that holds the terms of a sum, a factor for each sum, and the sums of what is added to the terms."""
        expr = self.exprs[id(terms)]
        if len(expr.terms) != 1:
            return None
        ((number, matrix),) = expr.terms.items()
        diagonal = diagonal_of(matrix)
        if diagonal is None:
            return None
        factors = diagonal.reshape(terms.shape)
        first = factors[tuple(slice(0, 1) if i in axes else slice(None) for i in range(factors.ndim))]
        if not np.allclose(factors, first, rtol=_EXACT, atol=0.0):
            return None
        return number, first.reshape(-1), expr.bias.reshape(terms.shape).sum(axis=axes).reshape(-1)

    def iterated(self, node: Node, x: Expr) -> Expr:
        """A reciprocal or an inverse square root."""
        plan = formula_plan(node)
        inside = x.scaled(plan.slope)
        number = self.direct_argument(inside)
        if number is None:
            number = self.materialize(inside, node.shape, node.inputs[0].origin)
        else:
            plan = plan.shifted(float(inside.bias[0]))
        return self.atom(self.push(Iterated(number, plan, node.shape, node.origin))).scaled(plan.gain)

    @staticmethod
    def direct_argument(x: Expr) -> int | None:
        """The stage that an expression is, up to a constant that is the same for all elements."""
        if len(x.terms) != 1 or np.ptp(x.bias) > _EXACT * max(1.0, abs(float(x.bias[0]))):
            return None
        ((number, matrix),) = x.terms.items()
        diagonal = diagonal_of(matrix)
        return number if diagonal is not None and np.allclose(diagonal, 1.0, rtol=_EXACT, atol=0.0) else None

    # Powers.

    def activation(self, node: Node, x: Expr) -> Expr:
        """A power of a sum with a constant is a walk of squares and products on one scale for all elements."""
        power = power_of(node)
        if power is None:
            return super().activation(node, x)
        degree, coefficient, shift = power
        operand = node.inputs[0]
        held = self.held(operand) if shift == 0.0 else None
        wanted = self.wanted.get(id(node))
        if held is None and wanted is None and degree == 2:
            return super().activation(node, x)
        if held is None:
            seen = self.ranges.of(operand)
            reach = max(abs(seen.low + shift), abs(seen.high + shift)) or 1.0
            gain = reach if wanted is None else (wanted / coefficient) ** (1.0 / degree)
            number = self.materialize(x.scaled(1.0 / gain, shift / gain), node.shape, operand.origin)
            held = number, gain
            if shift == 0.0:
                self.values.setdefault(id(operand), held)
        number = self.raised(held[0], degree, node)
        return self.atom(number).scaled(coefficient * abs(held[1]) ** degree)

    def raised(self, number: int, degree: int, node: Node) -> int:
        """The stage of an even power, by squares and products of equal layout."""
        square = self.push(Square(number, node.shape, node.origin))
        powers = [square]
        while 4 << (len(powers) - 1) <= degree:
            powers.append(self.push(Square(powers[-1], node.shape, node.origin)))
        parts = [p for bit, p in enumerate(powers) if degree // 2 >> bit & 1]
        total = parts[0]
        for part in parts[1:]:
            total = self.push(Product(part, total, node.shape, node.origin))
        return total


def centered(node: Node) -> Node | None:
    """What a node takes the mean off, if that is what it does."""
    if node.op != "Sub" or node.inputs[1].op != "Expand":
        return None
    mean = node.inputs[1].inputs[0]
    return node.inputs[0] if mean.op == "ReduceMean" and mean.inputs[0] is node.inputs[0] else None


def formula_plan(node: Node) -> FormulaPlan:
    """The plan of an iteration's node."""
    formula = node.attrs["approx"]
    if not isinstance(formula, Formula):
        raise InternalError(f"{node!r} holds no formula")
    return plan_formula(formula)


def power_of(node: Node) -> tuple[int, float, float] | None:
    """Degree, coefficient and shift if a node is coefficient * (x + shift)^degree, even and with a positive factor."""
    if node.op != "Poly":
        return None
    poly = ActivationPolynomial.of(node)
    if poly.coef.shape[1] != 1 or poly.degree < 2 or poly.degree % 2:
        return None
    if poly.degree == 2:
        w0, w1, w2 = (float(poly.power(k)[0]) for k in range(3))
        perfect = abs(w1 * w1 - 4.0 * w2 * w0) <= _EXACT * (w1 * w1 + abs(4.0 * w2 * w0))
        return (2, w2, w1 / (2.0 * w2)) if w2 > 0.0 and perfect else None
    if poly.basis != "power" or poly.coef[: poly.degree].any() or float(poly.coef[poly.degree, 0]) <= 0.0:
        return None
    return poly.degree, float(poly.coef[poly.degree, 0]), 0.0


def named(node: Node, letters: str) -> str:
    """The letters of a node's axes that are longer than one."""
    return "".join(a for a, n in zip(letters, node.shape, strict=True) if n > 1)


def sizes_of(node: Node, axes: str) -> Mapping[str, int]:
    """Length by letter."""
    return dict(zip(axes, (n for n in node.shape if n > 1), strict=True))
