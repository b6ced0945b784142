"""Reciprocal and inverse square root on a positive interval, to a relative error, in as few levels as possible.

For the reciprocal, over-relaxed Goldschmidt steps from a linear seed are the shallowest choice there is: n steps yield
the polynomial of degree 2^n - 1 of least relative error (the residual is the Chebyshev polynomial T_{2^n}, for T_2m is
T_2 of T_m), at n levels and two products each. For the inverse square root a seed of least relative error is refined by
Newton steps of two levels; all splits of a number of levels between the two are tried.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.approx import newton
from pi_compiler.approx.certificate import certify
from pi_compiler.approx.cost import evaluation_cost
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, DomainError
from pi_compiler.approx.formula import FormulaPlan, plan_formula
from pi_compiler.approx.minimax import remez
from pi_compiler.approx.poly import Apply, Domain, Fit, Formula, Poly, Sum, Times
from pi_compiler.approx.targets import target

__all__ = ["INVERSES", "shallowest"]

INVERSES = ("reciprocal", "inv_sqrt")
"""Targets that ``shallowest`` knows."""

_SEEDS = (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 19, 23, 27, 31)
_MOST_STEPS = 4
_DEEPEST = 14


def shallowest(
    name: str,
    domain: tuple[float, float],
    relative: float,
    *,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """The replacement of least depth.

    Args:
        name: ``"reciprocal"`` or ``"inv_sqrt"``.
        domain: closed interval above 0.
        relative: largest error relative to the function's value.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Raises:
        DomainError: an interval that reaches 0.
        ApproximationError: the interval is so wide that nothing within reach has this error.
    """
    low, high = float(domain[0]), float(domain[1])
    if not 0.0 < low < high or not math.isfinite(high):
        raise DomainError(f"the interval [{low:g}, {high:g}] does not stay above 0")
    if not 0.0 < relative < 1.0:
        raise ApproximationError(f"a relative error of {relative:g} is not in (0, 1)")
    if name == "reciprocal":
        steps = newton.iterations_needed(low / high, 2.0 * relative / (1.0 + relative))
        if steps > _DEEPEST:
            raise _too_wide(name, (low, high), relative)
        return newton.reciprocal((low, high), iterations=max(1, steps), density=density, held_out=held_out)
    formula, note = _inverse_root((low, high), relative)
    certificate = certify(target(name), formula, (low, high), density=density, held_out=held_out)
    return Fit(name, formula, "inv_sqrt_shallowest", certificate, notes=(note,))


def _too_wide(name: str, domain: Domain, relative: float) -> ApproximationError:
    return ApproximationError(
        f"{name} on [{domain[0]:g}, {domain[1]:g}], whose ends differ by a factor of {domain[1] / domain[0]:.3g}, "
        f"takes more than {_DEEPEST} levels at a relative error of {relative:.3g}"
    )


@lru_cache(maxsize=256)
def _inverse_root(domain: Domain, relative: float) -> tuple[Formula, str]:
    """Formula and note of the least depth, then of the fewest products."""
    best: tuple[tuple[int, int], FormulaPlan, Formula, str] | None = None
    for degree in _SEEDS:
        if best is not None and degree.bit_length() > best[0][0]:
            break
        for steps in range(_MOST_STEPS + 1):
            formula = _refined(domain, degree, steps)
            if formula is None or _relative_error(formula, domain) > relative:
                continue
            plan = plan_formula(formula)
            price = (plan.depth, evaluation_cost(formula).products)
            if best is None or price < best[0]:
                best = (price, plan, formula, f"seed of degree {degree}, {steps} Newton steps, {plan.depth} levels")
            break
    if best is None:
        raise _too_wide("inv_sqrt", domain, relative)
    return best[2], best[3]


def _relative_error(formula: Formula, domain: Domain) -> float:
    x = np.concatenate([np.geomspace(*domain, 2049), np.linspace(*domain, 2049)])
    return float(np.abs(np.sqrt(x) * formula(x) - 1.0).max())


@lru_cache(maxsize=256)
def _seed(ratio: float, degree: int) -> tuple[Poly, float] | None:
    """On [ratio, 1]: the polynomial of least relative error, and that error."""
    fit = remez(target("inv_sqrt"), (ratio, 1.0), degree, weight=lambda x: np.asarray(np.sqrt(x)))
    seed = fit.approx
    if not isinstance(seed, Poly) or not fit.converged:
        return None
    x = np.concatenate([np.geomspace(ratio, 1.0, 2049), np.linspace(ratio, 1.0, 2049)])
    return seed, float(np.abs(np.sqrt(x) * seed(x) - 1.0).max())


def _refined(domain: Domain, degree: int, steps: int) -> Formula | None:
    """Seed and Newton steps y (3 - x y^2) / 2 on u in [-1, 1], to which the domain is mapped.

    Each step is over-relaxed: it starts from k y with k such that both ends of sqrt(x) k y give the same error.
    """
    low, high = domain
    found = _seed(low / high, degree)
    if found is None or found[1] >= 1.0:
        return None
    seed, spread = found
    slope, shift = 2.0 / (high - low), -(high + low) / (high - low)
    unit = Poly("chebyshev", seed.to("chebyshev").coef, (-1.0, 1.0))
    lower, upper = 1.0 - spread, 1.0 + spread
    if steps:
        scale = math.sqrt(3.0 / (lower * lower + lower * upper + upper * upper))
        unit = unit.affine(scale, 0.0)
        lower, upper = _newton(scale * lower), 1.0
    walk: list[Apply | Times | Sum] = [Sum(((slope, 0),), shift), Apply(unit, 1)]
    half = (high - low) / (2.0 * high)
    middle = (high + low) / (2.0 * high)
    for step in range(steps):
        k = math.sqrt(3.0 / (1.0 + lower + lower * lower)) if step else 1.0
        if step:
            lower = _newton(k * lower)
        y = len(walk)
        # x / high = half u + middle; k^3 / 2 of it, times y and y^2, is what 3/2 k y is diminished by.
        walk += [Sum(((0.5 * k**3 * half, 1),), 0.5 * k**3 * middle), Times(y, y), Times(y, y + 1)]
        walk += [Times(y + 2, y + 3), Sum(((1.5 * k, y), (-1.0, y + 4)))]
    walk.append(Sum(((1.0 / math.sqrt(high), len(walk)),)))
    return Formula(tuple(walk), domain)


def _newton(s: float) -> float:
    return 0.5 * s * (3.0 - s * s)
