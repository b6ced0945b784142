"""How to evaluate a polynomial on ciphertexts: least depth, then fewest products.

A plan is Paterson and Stockmeyer's scheme in the polynomial's own basis (for the Chebyshev basis:
Chen, Chillotti and Song, EUROCRYPT 2019, section 4), generalized: instead of fixed baby and giant
steps, a search over basis sets and over the tree of divisions keeps to the least depth and finds
few products. Coefficients that are zero are never touched, so odd polynomials, even ones, and an
even polynomial plus a line cost what their parity makes possible (Lee, Lee, Lee, Kim, Kim, No and
Kang, ICML 2022, section 5, for the odd case).

To walk a plan, with B_i standing for x^i (basis "power") or T_i(t) (basis "chebyshev", where t
is the argument mapped from the polynomial's domain to [-1, 1]; the map is affine and belongs into
the linear layer before):

1. B_0 is 1 and B_1 the argument. For each ``BasisStep`` in order make B_index from B_left and
   B_right: ``B_left * B_right`` in the power basis, ``2 * B_left * B_right - B_|left - right|``
   in the Chebyshev basis. One product, one level.
2. A ``Leaf`` is ``constant + sum(c * B_i for i, c in terms)``: one level, for the plain products
   (none if there are no terms); the sum may be rescaled once.
3. A ``Split`` is ``high * B_index + low``: one product, one level. ``low`` ends at the level that
   the product ends at, so its last plain products may be summed in double scale with it before
   one rescaling (and one relinearization).
4. The value is ``scale * (root + B_unit)``, without B_unit if ``unit`` is None. B_unit is added
   as it is, without a product, which saves a level where the degree is a power of two. The factor
   ``scale`` is 1 unless the plan was asked to fold it into the layer after.

``depth`` on steps, leaves and splits is the number of levels consumed when it is done. Sums and
multiplications by 2 are free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.approx.errors import DegreeError
from pi_compiler.approx.poly import Basis, FloatArray, Poly

__all__ = ["BasisStep", "EvalPlan", "Leaf", "Split", "evaluate", "least_depth", "make_plan", "plan_counts"]

_MAX_DEGREE = 1023


@dataclass(frozen=True, slots=True)
class BasisStep:
    """How B_index is made: see the module's text, point 1. index = left + right, left >= right."""

    index: int
    left: int
    right: int
    depth: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """``constant + sum(c * B_i for i, c in terms)``."""

    terms: tuple[tuple[int, float], ...]
    constant: float
    depth: int


@dataclass(frozen=True, slots=True)
class Split:
    """``high * B_index + low``; low is None where it is zero."""

    index: int
    high: Split | Leaf
    low: Split | Leaf | None
    depth: int


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """See the module's text for how to walk it.

    Attributes:
        basis: meaning of B_i.
        domain: of the polynomial; in the Chebyshev basis the argument is mapped from it.
        steps: basis elements to make, in order.
        root: the tree; None if it is zero.
        unit: index of the basis element that is added as it is, or None.
        scale: factor of the result, folded into the layer after.
        depth: levels consumed.
        products: ciphertext-ciphertext products.
        plain_products: ciphertext-plaintext products.
    """

    basis: Basis
    domain: tuple[float, float]
    steps: tuple[BasisStep, ...]
    root: Split | Leaf | None
    unit: int | None
    scale: float
    depth: int
    products: int
    plain_products: int


def least_depth(degree: int, *, unit: bool = False) -> int:
    """Levels for a polynomial of this degree; ``unit``: with its leading coefficient folded away."""
    if degree <= 0:
        return 0
    return (degree - 1).bit_length() if unit and degree & (degree - 1) == 0 else degree.bit_length()


def make_plan(poly: Poly, *, fold_scale: bool = False) -> EvalPlan:
    """The plan of least depth, and of fewest products among those that the search visits.

    Args:
        poly: what to evaluate. Coefficients that are exactly zero cost nothing.
        fold_scale: let the result come out divided by ``plan.scale``, for the layer after to
            multiply back. It saves one level if the degree is a power of two (2: 1 level, 4: 2,
            8: 3 ...) and does nothing otherwise. The intermediate values grow by 1 / |scale|.

    Raises:
        DegreeError: degree above 1023.
    """
    coef = [float(c) for c in poly.coef[: poly.degree + 1]]
    degree = poly.degree
    power_of_two = degree >= 2 and degree & (degree - 1) == 0
    scale = coef[-1] if fold_scale and power_of_two else 1.0
    unit = degree if power_of_two and coef[-1] / scale == 1.0 else None
    if unit is not None:
        coef = [c / scale for c in coef[:-1]]
    pattern = sum(1 << i for i, c in enumerate(coef) if c != 0.0)
    pattern = _whole(pattern)
    depth, steps, splits = _scheme(pattern, poly.basis, unit or 0)
    tree = _Tree(poly.basis, splits)
    root = tree.build(dict(enumerate(coef)), pattern, depth) if pattern else None
    products = len(steps) + tree.products
    return EvalPlan(poly.basis, poly.domain, steps, root, unit, scale, depth, products, tree.plain_products)


def plan_counts(degree: int, *, parity: str | None = None, basis: Basis = "chebyshev") -> tuple[int, int]:
    """Depth and products of a polynomial of this degree and parity ("even", "odd" or None).

    Raises:
        DegreeError: the degree does not have the parity.
    """
    if parity is not None and degree % 2 != (parity == "odd"):
        raise DegreeError(f"degree {degree} is not {parity}")
    step = 1 if parity is None else 2
    pattern = sum(1 << i for i in range(degree % step, degree + 1, step))
    depth, steps, splits = _scheme(pattern, basis, 0)
    return depth, len(steps) + _count(pattern, depth, splits, basis)


def evaluate(plan: EvalPlan, x: ArrayLike) -> FloatArray:
    """What the plan computes, on numbers: the reference that an encrypted walker follows."""
    t = Poly(plan.basis, (0.0,), plan.domain).mapped(x)
    basis: dict[int, FloatArray] = {0: np.ones_like(t), 1: t}
    for step in plan.steps:
        product = basis[step.left] * basis[step.right]
        if plan.basis == "chebyshev":
            product = 2.0 * product - basis[step.left - step.right]
        basis[step.index] = product

    def walk(node: Split | Leaf | None) -> FloatArray:
        if node is None:
            return np.zeros_like(t)
        if isinstance(node, Split):
            return walk(node.high) * basis[node.index] + walk(node.low)
        return np.asarray(sum((c * basis[i] for i, c in node.terms), np.full_like(t, node.constant)))

    value = walk(plan.root)
    return plan.scale * (value if plan.unit is None else value + basis[plan.unit])


def _divide(pattern: int, k: int, basis: Basis) -> tuple[int, int]:
    """Which coefficients of quotient and remainder by B_k may differ from zero (bit sets)."""
    if basis == "power":
        return pattern >> k, pattern & ((1 << k) - 1)
    quotient = 0
    for i in range(pattern.bit_length() - 1, k - 1, -1):
        if not pattern >> i & 1:
            continue
        quotient |= 1 << (i - k)
        pattern ^= 1 << i
        if i > k:
            pattern |= 1 << abs(i - 2 * k)
    return quotient, pattern


def _divide_values(coef: Mapping[int, float], k: int, basis: Basis) -> tuple[dict[int, float], dict[int, float]]:
    rest = {i: c for i, c in coef.items() if c != 0.0}
    if basis == "power":
        return {i - k: c for i, c in rest.items() if i >= k}, {i: c for i, c in rest.items() if i < k}
    quotient: dict[int, float] = {}
    for i in range(max(rest), k - 1, -1):
        c = rest.pop(i, 0.0)
        if c == 0.0:
            continue
        quotient[i - k] = c if i == k else 2.0 * c
        if i > k:
            rest[abs(i - 2 * k)] = rest.get(abs(i - 2 * k), 0.0) - c
    return quotient, rest


class _Tree:
    """Builds the tree that the search decided on, with numbers in it."""

    def __init__(self, basis: Basis, splits: Mapping[tuple[int, int], int]) -> None:
        self.basis = basis
        self.splits = splits
        self.products = 0
        self.plain_products = 0

    def build(self, coef: Mapping[int, float], pattern: int, budget: int) -> Split | Leaf | None:
        """The tree of a polynomial whose nonzero coefficients are within the pattern."""
        if not any(coef.values()):
            return None
        k = self.splits.get((pattern, budget), 0)
        if k == 0:
            terms = tuple((i, c) for i, c in sorted(coef.items()) if i and c != 0.0)
            self.plain_products += len(terms)
            return Leaf(terms, coef.get(0, 0.0), budget if terms else 0)
        quotient, rest = _divide_values(coef, k, self.basis)
        high_pattern, low_pattern = _divide(pattern, k, self.basis)
        high = self.build(quotient, high_pattern, budget - 1)
        low = self.build(rest, low_pattern, budget)
        if high is None:
            return low
        self.products += 1
        return Split(k, high, low, budget)


class _Search:
    """Fewest divisions for one basis set: dynamic programming over (pattern, levels left)."""

    def __init__(self, elements: frozenset[int], basis: Basis) -> None:
        self.elements = tuple(sorted(elements))
        self.basis: Basis = basis
        self.best: dict[tuple[int, int], tuple[int, int]] = {}
        self.usable = [sum(1 << e for e in elements if e.bit_length() - (e & (e - 1) == 0) < b) | 1 for b in range(12)]

    def cost(self, pattern: int, budget: int) -> int:
        """Divisions needed, a large number if the budget is too small."""
        if pattern & ~self.usable[budget] == 0:
            return 0
        if (pattern.bit_length() - 1).bit_length() > budget:
            return 10**6
        key = (pattern, budget)
        if key not in self.best:
            self.best[key] = (10**6, 0)
            degree = pattern.bit_length() - 1
            options = [k for k in self.elements if k <= degree and self.usable[budget] >> k & 1]
            for k in options:
                high, low = _divide(pattern, k, self.basis)
                found = 1 + self.cost(high, budget - 1)
                if found < self.best[key][0]:
                    found += self.cost(low, budget)
                if found < self.best[key][0]:
                    self.best[key] = (found, k)
        return self.best[key][0]

    def chosen(self, pattern: int, budget: int) -> dict[tuple[int, int], int]:
        """The divisions of the best tree."""
        result: dict[tuple[int, int], int] = {}
        stack = [(pattern, budget)]
        while stack:
            pattern, budget = stack.pop()
            if pattern & ~self.usable[budget] == 0:
                continue
            k = self.best[pattern, budget][1]
            result[pattern, budget] = k
            high, low = _divide(pattern, k, self.basis)
            stack += [(high, budget - 1), (low, budget)]
        return result


def _depth(index: int) -> int:
    return (index - 1).bit_length()


def _generate(wanted: Iterable[int], basis: Basis) -> tuple[BasisStep, ...]:
    """Steps that make the wanted elements, each at its least depth, and few others."""
    have = {1, *wanted} - {0}
    steps: list[BasisStep] = []
    pending = sorted(have - {1})
    while pending:
        index = pending.pop()
        best: tuple[int, int] | None = None
        for right in range(index // 2, 0, -1):
            left = index - right
            if _depth(left) >= _depth(index):
                break
            needs = {left, right, left - right} if basis == "chebyshev" else {left, right}
            missing = len(needs - have - {0})
            if best is None or missing < best[0]:
                best = (missing, right)
        right = best[1] if best is not None else index // 2
        left = index - right
        needs = {left, right, left - right} if basis == "chebyshev" else {left, right}
        for new in needs - have - {0}:
            have.add(new)
            pending.append(new)
        pending.sort()
        steps.append(BasisStep(index, left, right, _depth(index)))
    return tuple(sorted(steps, key=lambda s: s.index))


def _whole(pattern: int) -> int:
    """The pattern with the gaps of its parity filled, unless it has few terms: fewer cases to search."""
    odd = sum(1 << i for i in range(3, pattern.bit_length(), 2))
    even = sum(1 << i for i in range(2, pattern.bit_length(), 2))
    if (pattern >> 2).bit_count() <= 3:
        return pattern
    return pattern | (odd if pattern & odd else 0) | (even if pattern & even else 0)


def _candidates(pattern: int, unit: int) -> Iterable[set[int]]:
    """Basis sets worth trying: small elements that occur, and giants k, 2k, 4k ..."""
    degree = max(pattern.bit_length() - 1, unit)
    odd = any(pattern >> i & 1 for i in range(3, degree + 1, 2))
    even = any(pattern >> i & 1 for i in range(2, degree + 1, 2))
    top = min(degree, 2 * math.isqrt(degree) + 10)
    for k in range(2, top + 1) if degree < 128 else [1 << j for j in range(1, top.bit_length())]:
        babies = {i for i in range(2, k) if (odd and i % 2) or (even and i % 2 == 0)}
        giants = {k << j for j in range(11) if k << j <= degree}
        powers = {1 << j for j in range(1, 11) if 1 << j <= degree}
        yield babies | giants
        yield babies | giants | powers
        yield babies | powers


@lru_cache(maxsize=4096)
def _scheme(pattern: int, basis: Basis, unit: int) -> tuple[int, tuple[BasisStep, ...], dict[tuple[int, int], int]]:
    """Depth, steps and divisions; the best of the candidates, trimmed to what it uses."""
    degree = pattern.bit_length() - 1
    if max(degree, unit) > _MAX_DEGREE:
        raise DegreeError(f"degree {max(degree, unit)} is above the largest supported, {_MAX_DEGREE}")
    depth = max(least_depth(degree), least_depth(unit, unit=True))
    best: tuple[int, tuple[BasisStep, ...], dict[tuple[int, int], int]] | None = None
    needed = {unit} if unit else set()
    tried: set[frozenset[int]] = set()
    for candidate in [set(), *_candidates(pattern, unit)]:
        elements = frozenset({s.index for s in _generate(candidate | needed, basis)} | {1})
        if elements in tried:
            continue
        tried.add(elements)
        search = _Search(elements, basis)
        if search.cost(pattern, depth) >= 10**6:
            continue
        splits = search.chosen(pattern, depth)
        steps = _generate(_used(pattern, depth, splits, basis) | needed, basis)
        total = len(steps) + _count(pattern, depth, splits, basis)
        if best is None or total < best[0]:
            best = (total, steps, splits)
    if best is None:
        raise DegreeError(f"no evaluation plan for degree {degree}")
    return depth, best[1], best[2]


def _used(pattern: int, budget: int, splits: Mapping[tuple[int, int], int], basis: Basis) -> set[int]:
    k = splits.get((pattern, budget), 0)
    if k == 0:
        return {i for i in range(2, pattern.bit_length()) if pattern >> i & 1}
    high, low = _divide(pattern, k, basis)
    return {k} | _used(high, budget - 1, splits, basis) | _used(low, budget, splits, basis)


def _count(pattern: int, budget: int, splits: Mapping[tuple[int, int], int], basis: Basis) -> int:
    k = splits.get((pattern, budget), 0)
    if k == 0:
        return 0
    high, low = _divide(pattern, k, basis)
    return 1 + _count(high, budget - 1, splits, basis) + _count(low, budget, splits, basis)
