"""Functions of one variable on shares: polynomials, pieces and formulas in the forms with fewest rounds.

A polynomial of degree two is one square; degrees three and four take two rounds,
``c0 + c1 u + c2 v + v (c3 u + c4 v)`` with ``v = u^2``; higher degrees n take log2 n rounds, each product
row of Chebyshev polynomials from the one before (``T_(m+i) = 2 T_m T_i - T_(m-i)``). Pieces cost one
stacked comparison and one stacked product, whatever their number, because everything else about them is
linear in the comparisons' bits: piece i gets x clamped to its own interval, so that no polynomial ever
sees an argument outside, and is corrected by its constant values at the ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.polynomial import chebyshev as cheb

from pi_compiler.approx.poly import Apply, Approximant, Composite, Formula, Piecewise, Poly, Rational, Sum, Times
from pi_compiler.errors import InternalError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.passes.mpc.build import Builder

_FAR = 1.0  # a square is completed if its vertex is not farther out than the interval; else it loses bits
_ONE: FloatArray = np.ones(())
_ZERO: FloatArray = np.zeros(())


@dataclass(frozen=True, slots=True, eq=False)
class Lazy:
    """``scale * value + shift``, not yet computed: the next linear layer takes it into its weights.

    Attributes:
        value: number of the instruction.
        scale: broadcasts to the value's shape.
        shift: broadcasts to the value's shape.
        secret: the constants are the model owner's.
    """

    value: int
    scale: FloatArray = field(default_factory=lambda: _ONE)
    shift: FloatArray = field(default_factory=lambda: _ZERO)
    secret: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is the value itself."""
        return bool((self.scale == 1.0).all() and not self.shift.any())

    def made(self, b: Builder) -> int:
        """The number of the computed value."""
        if self.plain and b.frac_of(self.value) == b.frac:
            return self.value
        if b.frac_of(self.value) != b.frac:
            return b.combine([(self.value, self.scale)], self.shift)
        return b.affine(self.value, self.scale, self.shift, secret=self.secret)


def function(b: Builder, x: int, approx: Approximant) -> Lazy:
    """An approximant of a value.

    Args:
        b: where to write.
        x: the value.
        approx: what to compute.
    """
    match approx:
        case Poly():
            return poly(b, x, approx)
        case Composite():
            result = Lazy(x)
            for stage in approx.stages:
                result = poly(b, result.made(b), stage)
            return result
        case Piecewise():
            return Lazy(piecewise(b, x, approx))
        case Formula():
            return Lazy(formula(b, x, approx))
        case Rational():
            raise InternalError("a rational fit has no lowering to shares")


def poly(b: Builder, x: int, p: Poly) -> Lazy:
    """One polynomial for all elements."""
    low, high = p.domain
    return polynomial(b, x, np.asarray(p.coef), np.asarray(low), np.asarray(high), p.basis == "chebyshev")


def polynomial(b: Builder, x: int, coef: FloatArray, low: FloatArray, high: FloatArray, chebyshev: bool) -> Lazy:
    """A polynomial per element.

    Args:
        b: where to write.
        x: the value.
        coef: (degree + 1, ...) lowest first; entries broadcast to x.
        low: lower end of the domain, broadcasts to x.
        high: upper end.
        chebyshev: the coefficients are of T_k on the domain, not of x^k.
    """
    nonzero = [k for k in range(len(coef)) if np.any(coef[k])]
    degree = nonzero[-1] if nonzero else 0
    coef = coef[: degree + 1]
    if degree <= 2:
        c = _powers(coef, low, high) if chebyshev else coef
        c = np.concatenate([c, np.zeros((3 - len(c), *c.shape[1:]))])
        return _quadratic(b, x, c, low, high) if degree == 2 else Lazy(x, c[1], c[0])
    u, c = _normalized(b, x, coef, low, high, chebyshev)
    if degree <= 4:
        return Lazy(_quartic(b, u, c))
    return Lazy(_series(b, u, c))


def _powers(coef: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Power coefficients in x of a Chebyshev series of degree two at most, element by element."""
    c = np.concatenate([coef, np.zeros((3 - len(coef), *coef.shape[1:]))])
    s, t = 2.0 / (high - low), -(low + high) / (high - low)
    in_u = (c[0] - c[2], c[1], 2.0 * c[2])
    return np.stack(
        np.broadcast_arrays(
            in_u[0] + in_u[1] * t + in_u[2] * t * t, in_u[1] * s + 2.0 * in_u[2] * s * t, in_u[2] * s * s
        )
    )


def _quadratic(b: Builder, x: int, c: FloatArray, low: FloatArray, high: FloatArray) -> Lazy:
    """The value c2 x^2 + c1 x + c0 with one square."""
    reach = np.maximum(np.abs(low), np.abs(high))
    with np.errstate(all="ignore"):
        vertex = c[1] / (2.0 * c[2])
    if np.isfinite(vertex).all() and (np.abs(vertex) <= _FAR * reach).all():
        square = b.square(b.affine(x, 1.0, vertex))
        return Lazy(square, c[2], c[0] - c[2] * vertex**2)
    return Lazy(b.combine([(b.square(x), c[2]), (x, c[1])], c[0]))


def _normalized(
    b: Builder, x: int, coef: FloatArray, low: FloatArray, high: FloatArray, chebyshev: bool
) -> tuple[int, FloatArray]:
    """The argument mapped to [-1, 1], and the Chebyshev coefficients there, (degree + 1, ...)."""
    scale, shift = 2.0 / (high - low), -(low + high) / (high - low)
    u = b.affine(x, np.asarray(scale), np.asarray(shift))
    if chebyshev:
        return u, coef
    columns = np.broadcast_to(coef, (len(coef), *np.broadcast_shapes(coef.shape[1:], low.shape)))
    nodes = np.cos(np.pi * (np.arange(len(coef)) + 0.5) / len(coef))
    at = (nodes.reshape(-1, *(1,) * (columns.ndim - 1)) - shift) / scale
    values: FloatArray = np.zeros(1)
    for row in columns[::-1]:
        values = values * at + row
    values = np.asarray(values, np.float64)
    flat = values.reshape(len(values), -1)
    solved = np.linalg.solve(cheb.chebvander(nodes, len(coef) - 1), flat)
    return u, np.asarray(solved, np.float64).reshape(values.shape)


def _quartic(b: Builder, u: int, c: FloatArray) -> int:
    """A Chebyshev series of degree three or four in two rounds."""
    c = np.concatenate([c, np.zeros((5 - len(c), *c.shape[1:]))])
    p = (c[0] - c[2] + c[4], c[1] - 3.0 * c[3], 2.0 * c[2] - 8.0 * c[4], 4.0 * c[3], 8.0 * c[4])
    v = b.square(u)
    top = b.mul(v, b.combine([(u, p[3]), (v, p[4])]))
    return b.combine([(top, 1.0), (u, p[1]), (v, p[2])], p[0])


def _series(b: Builder, u: int, c: FloatArray) -> int:
    """A Chebyshev series of any degree: rows T_1 .. T_m, doubled each round."""
    degree, shape = len(c) - 1, b.shape(u)
    rows, m = b.stack([u]), 1
    while m < degree:
        count = min(m, degree - m)
        top = b.row(rows, m - 1)
        if m == 1:
            product = b.stack([b.square(top)])
        else:
            product = b.mul(b.stack([top]), rows if count == m else b.rows(rows, range(count)))
        # T_(m+i) = 2 T_m T_i - T_(m-i), T_0 = 1
        lower = b.rows(rows, [m - i - 1 if i < m else -1 for i in range(1, count + 1)])
        one = np.zeros((count, *(1,) * len(shape)))
        one[m - 1 :] = -1.0
        new = b.affine(b.sub(b.affine(product, 2.0, 0.0), lower), 1.0, one)
        rows = b.gather((rows, new), np.arange((m + count) * int(np.prod(shape))), (m + count, *shape))
        m += count
    factors = np.stack(
        [np.broadcast_to(c[k], np.broadcast_shapes(c.shape[1:], (1,) * len(shape))) for k in range(1, degree + 1)]
    )
    return b.combine_rows(rows, factors, c[0])


def piecewise(b: Builder, x: int, p: Piecewise) -> int:
    """Pieces with one stacked comparison and one stacked product."""
    return _Pieces(b, x, p).result()


class _Pieces:
    """The comparisons of one piecewise function, and what is linear in them."""

    def __init__(self, b: Builder, x: int, p: Piecewise) -> None:
        self.b, self.x, self.p = b, x, p
        ends = [-t for t in reversed(p.breaks)] + [0.0, *p.breaks] if p.fold else list(p.breaks)
        self.below: dict[float, int] = {}
        shifted = [b.affine(x, 1.0, -t) for t in ends]
        if len(ends) == 1:
            self.below[ends[0]] = b.negative(shifted[0])
        elif ends:
            bits = b.negative(b.stack(shifted))
            self.below = {t: b.row(bits, n) for n, t in enumerate(ends)}

    def under(self, number: int) -> dict[int, int]:
        """The argument lies below break ``number``, as whole combination {bit or -1 for one: factor}."""
        if number < 0:
            return {}
        if number >= len(self.p.breaks):
            return {-1: 1}
        t = self.p.breaks[number]
        if self.p.fold:
            return {self.below[t]: 1, self.below[-t]: -1}
        return {self.below[t]: 1}

    def signed(self, number: int) -> dict[int, int]:
        """The same times the sign of x, for functions of the absolute value."""
        if not self.p.fold or number < 0:
            return self.under(number)
        if number >= len(self.p.breaks):
            return {-1: 1, self.below[0.0]: -2}
        t = self.p.breaks[number]
        return {self.below[t]: 1, self.below[-t]: 1, self.below[0.0]: -2}

    def result(self) -> int:
        """The function's value."""
        b, p = self.b, self.p
        pieces = [_simplified(piece) for piece in p.pieces]
        if len(self.below) == 1 and all(isinstance(q, Poly) and q.degree <= 1 and q(0.0) == 0.0 for q in pieces):
            return self.hinge(*pieces)
        moving = [i for i, piece in enumerate(pieces) if not isinstance(piece, Poly) or piece.degree > 0]
        spare = moving[0] if len(moving) == len(pieces) and not p.fold and isinstance(pieces[0], Poly) else -1
        inside = self.products([i for i in moving if i != spare])
        terms: dict[int, float] = {self.x: p.slope} if p.slope else {}
        shift = 0.0
        if spare >= 0:
            whole = b.combine([(self.x, 1.0), *((v, -1.0) for v in inside.values())]) if inside else self.x
            first = pieces[spare]
            if not isinstance(first, Poly) or first.degree > 1:
                inside[spare] = whole
            else:
                slope = _slope(pieces[spare])
                _accumulate(terms, {self.x: 1, **dict.fromkeys(inside.values(), -1)}, slope)
        for i, piece in enumerate(pieces):
            here = _minus(self.under(i), self.under(i - 1))
            if isinstance(piece, Poly) and piece.degree <= 1:
                _accumulate(terms, here, float(piece(0.0)))
                if i in inside:
                    _accumulate(terms, {inside[i]: 1}, _slope(piece))
                continue
            value, corrections = self.clamped(i, piece, inside[i])
            _accumulate(terms, {value: 1}, 1.0)
            for combination, size in corrections:
                _accumulate(terms, combination, size)
        shift += terms.pop(-1, 0.0)
        return b.combine([(v, c) for v, c in terms.items() if c] or [(self.x, 0.0)], shift)

    def hinge(self, *pieces: Poly | Composite) -> int:
        """Two lines through the origin: the comparison's bit serves nothing but selecting x, and may stay a bit."""
        left, right = (_slope(piece) for piece in (pieces if len(pieces) == 2 else (*pieces, *pieces)))
        if self.p.fold:
            left = -left
        picked = self.b.mul(next(iter(self.below.values())), self.x)
        return self.b.combine([(self.x, right + self.p.slope), (picked, left - right)])

    def products(self, numbers: Sequence[int]) -> dict[int, int]:
        """Per piece the argument where it lies in the piece, else 0; one product for all."""
        b = self.b
        if not numbers:
            return {}
        bits = []
        for i in numbers:
            combination = _minus(self.signed(i), self.signed(i - 1))
            one = combination.pop(-1, 0)
            if not combination:
                return {i: self.x}
            bits.append(b.whole_sum(list(combination.items()), one))
        if len(bits) == 1:
            return {numbers[0]: b.mul(bits[0], self.x)}
        rows = b.mul(b.stack(bits), b.stack([self.x]))
        return {i: b.row(rows, n) for n, i in enumerate(numbers)}

    def clamped(self, i: int, piece: Poly | Composite, inside: int) -> tuple[int, list[tuple[dict[int, int], float]]]:
        """The piece of its clamped argument, and what to take away outside of its interval."""
        breaks, terms, shift = self.p.breaks, {inside: 1.0}, 0.0
        corrections: list[tuple[dict[int, int], float]] = []
        if i > 0:
            _accumulate(terms, self.under(i - 1), breaks[i - 1])
            corrections.append((self.under(i - 1), -float(piece(breaks[i - 1]))))
        if i < len(breaks):
            above = _minus({-1: 1}, self.under(i))
            _accumulate(terms, above, breaks[i])
            corrections.append((above, -float(piece(breaks[i]))))
        shift = terms.pop(-1, 0.0)
        argument = self.b.combine([(v, c) for v, c in terms.items() if c], shift)
        low = breaks[i - 1] if i > 0 else 0.0 if self.p.fold else self.p.domain[0]
        high = breaks[i] if i < len(breaks) else max(abs(self.p.domain[0]), self.p.domain[1])
        narrow = _on(piece, low, high)
        return function(self.b, argument, narrow).made(self.b), corrections


def _simplified(piece: Poly | Composite) -> Poly | Composite:
    if isinstance(piece, Composite):
        return piece if len(piece.stages) > 1 else piece.stages[0]
    return piece.to("power") if piece.degree <= 2 else piece


def _on(piece: Poly | Composite, low: float, high: float) -> Poly | Composite:
    """The same function with the interval that it will see as its domain."""
    if isinstance(piece, Composite):
        return piece
    return Poly("power", piece.to("power").coef, (low, high))


def _slope(piece: Poly | Composite) -> float:
    return float(piece(1.0) - piece(0.0))


def _minus(a: dict[int, int], b: dict[int, int]) -> dict[int, int]:
    total = dict(a)
    for key, factor in b.items():
        total[key] = total.get(key, 0) - factor
    return {k: v for k, v in total.items() if v}


def _accumulate(terms: dict[int, float], combination: dict[int, int], size: float) -> None:
    for key, factor in combination.items():
        terms[key] = terms.get(key, 0.0) + factor * size


def formula(b: Builder, x: int, f: Formula) -> int:
    """Steps of a formula; products that depend on equally many others before them share a round."""
    depth = [0]
    for step in f.steps:
        match step:
            case Apply(p, arg):
                depth.append(depth[arg] + max(p.degree - 1, 0).bit_length())
            case Times(left, right):
                depth.append(max(depth[left], depth[right]) + 1)
            case Sum(terms, _):
                depth.append(max((depth[i] for _, i in terms), default=0))
    values: dict[int, int] = {0: x}
    for level in range(max(depth) + 1):
        here = [n for n, d in enumerate(depth) if d == level and n]
        times = [n for n in here if isinstance(f.steps[n - 1], Times)]
        _products(b, f, times, values)
        for n in here:
            match f.steps[n - 1]:
                case Apply(p, arg):
                    values[n] = poly(b, values[arg], p).made(b)
                case Sum(terms, constant):
                    values[n] = b.combine([(values[i], c) for c, i in terms] or [(x, 0.0)], constant)
    return values[len(f.steps)]


def _products(b: Builder, f: Formula, numbers: Sequence[int], values: dict[int, int]) -> None:
    """The products of these steps, stacked into one."""
    pairs = []
    for n in numbers:
        step = f.steps[n - 1]
        if isinstance(step, Times):
            pairs.append((values[step.left], values[step.right]))
    if not pairs:
        return
    if len(pairs) == 1:
        values[numbers[0]] = b.mul(*pairs[0])
        return
    rows = b.mul(b.stack([a for a, _ in pairs]), b.stack([c for _, c in pairs]))
    for place, n in enumerate(numbers):
        values[n] = b.row(rows, place)
