"""How to evaluate a formula on ciphertexts: what folds into its neighbors, and the level of every step.

A ``Formula`` that reads its argument only once, by an affine map, has that map's factor folded into the layer before
and the factor of a last scaling folded into the layer after. What is left is a walk of products, sums and polynomials
whose depths are known beforehand, so that each operand can wait for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.plan import make_plan
from pi_compiler.approx.poly import Apply, Domain, Formula, Sum, Times

__all__ = ["FormulaPlan", "plan_formula", "reads_once"]

Step: TypeAlias = Apply | Times | Sum


@dataclass(frozen=True, slots=True)
class FormulaPlan:
    """A formula as it is evaluated.

    Attributes:
        slope: the argument is ``slope`` times the function's own.
        inner: the formula on that argument.
        gain: the function's value is ``gain`` times the inner one's.
        depths: levels consumed when value i is there; value 0 is the argument.
    """

    slope: float
    inner: Formula
    gain: float
    depths: tuple[int, ...]

    @property
    def depth(self) -> int:
        """Levels of the whole evaluation."""
        return self.depths[-1]

    def shifted(self, shift: float) -> FormulaPlan:
        """The same function of an argument that ``shift`` is still to be added to, which takes no level."""
        if shift == 0.0:
            return self
        first = self.inner.steps[0]
        if not isinstance(first, Sum) or any(0 in _reads(s) for s in self.inner.steps[1:]):
            raise ApproximationError("a formula that reads its argument more than once cannot take a shift")
        moved = replace(first, constant=first.constant + shift * sum(c for c, _ in first.terms))
        low, high = self.inner.domain
        return replace(self, inner=Formula((moved, *self.inner.steps[1:]), (low - shift, high - shift)))


def _reads(step: Step) -> tuple[int, ...]:
    match step:
        case Apply(_, arg):
            return (arg,)
        case Times(left, right):
            return (left, right)
        case Sum(terms, _):
            return tuple(i for _, i in terms)


def reads_once(formula: Formula) -> bool:
    """Whether a formula's argument is read by one affine map alone."""
    first = formula.steps[0]
    alone = isinstance(first, Sum) and len(first.terms) == 1 and first.terms[0][1] == 0
    return alone and not any(0 in _reads(s) for s in formula.steps[1:])


def plan_formula(formula: Formula) -> FormulaPlan:
    """The plan of a formula whose argument is read by one affine map.

    Raises:
        ApproximationError: the argument is read otherwise, or more than once.
    """
    first = formula.steps[0]
    if not isinstance(first, Sum) or not reads_once(formula):
        raise ApproximationError("a formula has to begin with the only affine map of its argument")
    factor = first.terms[0][0]
    slope, steps = abs(factor), list(formula.steps)
    steps[0] = Sum(((1.0 if factor > 0 else -1.0, 0),), first.constant)
    gain, last = 1.0, steps[-1]
    scaling = isinstance(last, Sum) and len(last.terms) == 1 and last.constant == 0.0
    if isinstance(last, Sum) and scaling and len(steps) > 1 and last.terms[0][1] == len(steps) - 1:
        gain = last.terms[0][0]
        steps.pop()
    domain: Domain = (formula.domain[0] * slope, formula.domain[1] * slope)
    return FormulaPlan(slope, Formula(tuple(steps), domain), gain, depths_of(steps))


def pivot(terms: Sequence[tuple[float, int]], depths: Sequence[int]) -> int | None:
    """The place of the term of a sum that is added as it is: the deepest one with factor 1 or -1."""
    whole = [place for place, (c, _) in enumerate(terms) if abs(c) == 1.0]
    return max(whole, key=lambda place: depths[terms[place][1]], default=None)


def depths_of(steps: Sequence[Step]) -> tuple[int, ...]:
    """Levels consumed by the argument and by each step. All terms of a sum but its pivot take a plain product."""
    depths = [0]
    for step in steps:
        match step:
            case Apply(poly, arg):
                depths.append(depths[arg] + make_plan(poly).depth)
            case Times(left, right):
                depths.append(max(depths[left], depths[right]) + 1)
            case Sum(terms, _):
                free = pivot(terms, depths)
                depths.append(max(depths[i] + (place != free) for place, (_, i) in enumerate(terms)))
    return tuple(depths)
