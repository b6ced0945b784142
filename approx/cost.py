"""What evaluating a replacement takes: levels, products, comparisons, divisions.

Rules that depend on the neighbors: the map from a domain to [-1, 1], and any affine map at
either end, folds into a linear layer and is free. A polynomial of degree two at either end is a
completed square: one product, one level. Inside a composite or a formula it is planned like any
other polynomial. Multiplying by a whole number is an addition.
"""

from __future__ import annotations

from dataclasses import dataclass

from pi_compiler.approx.plan import make_plan
from pi_compiler.approx.poly import Apply, Approximant, Composite, Formula, Piecewise, Poly, Rational, Sum, Times

__all__ = ["Cost", "evaluation_cost"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What an evaluation takes (see ``Certificate``)."""

    depth: int
    products: int
    plain_products: int
    comparisons: int = 0
    divisions: int = 0

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(
            self.depth + other.depth,
            self.products + other.products,
            self.plain_products + other.plain_products,
            self.comparisons + other.comparisons,
            self.divisions + other.divisions,
        )


FREE = Cost(0, 0, 0)


def evaluation_cost(approx: Approximant) -> Cost:
    """Levels, products, comparisons and divisions of one evaluation."""
    match approx:
        case Poly():
            return _at_an_end(approx)
        case Composite(stages):
            last = len(stages) - 1
            total = FREE
            for i, stage in enumerate(stages):
                total = total + (_at_an_end(stage) if i in (0, last) else _inside(stage))
            return total
        case Formula():
            return _formula(approx)
        case Piecewise():
            pieces = [evaluation_cost(p) for p in approx.pieces]
            selections = len(approx.breaks)
            return Cost(
                max(c.depth for c in pieces) + (1 if selections or approx.fold else 0),
                sum(c.products for c in pieces) + selections + approx.fold,
                sum(c.plain_products for c in pieces),
                selections + approx.fold,
            )
        case Rational(numerator, denominator):
            above, below = evaluation_cost(numerator), evaluation_cost(denominator)
            return Cost(
                max(above.depth, below.depth) + 1,
                above.products + below.products + 1,
                above.plain_products + below.plain_products,
                divisions=1,
            )


def _at_an_end(poly: Poly) -> Cost:
    if poly.degree <= 1:
        return FREE
    if poly.degree == 2:
        return Cost(1, 1, 0)
    return _inside(poly)


def _inside(poly: Poly) -> Cost:
    plan = make_plan(poly)
    return Cost(plan.depth, plan.products, plan.plain_products)


def _formula(formula: Formula) -> Cost:
    """An affine map of x alone is free if nothing else reads x, one of the last value alone always."""
    depth, products, plain_products = [0], 0, 0
    only_reader = sum(_reads_input(step) for step in formula.steps) == 1
    for position, step in enumerate(formula.steps, 1):
        match step:
            case Apply(poly, arg):
                cost = _at_an_end(poly) if arg == 0 else _inside(poly)
                depth.append(depth[arg] + cost.depth)
                products += cost.products
                plain_products += cost.plain_products
            case Times(left, right):
                depth.append(max(depth[left], depth[right]) + 1)
                products += 1
            case Sum(terms, _):
                alone = len(terms) == 1 and (position == len(formula.steps) or (terms[0][1] == 0 and only_reader))
                scaled = [i for c, i in terms if not (alone or float(c).is_integer())]
                plain_products += len(scaled)
                depth.append(max((depth[i] + (i in scaled) for _, i in terms), default=0))
    return Cost(depth[-1], products, plain_products)


def _reads_input(step: Apply | Times | Sum) -> bool:
    match step:
        case Apply(_, arg):
            return arg == 0
        case Times(left, right):
            return 0 in (left, right)
        case Sum(terms, _):
            return any(i == 0 for _, i in terms)
