"""Proofs about a fit: the largest error on an interval and where, and how often data leave it.

The largest error is found by branch and bound, not by sampling: every box of the interval gets a
Chebyshev model of the error (17 nodes, checked on 16 others); the exact maximum of the model's
quadratic part, plus the absolute sum of its other coefficients, plus twice the observed mismatch
bounds the error on the box; boxes that cannot hold the maximum are dropped and the rest halved.
Intervals are first cut at the kinks of the function and at the breaks of its replacement, so
that the error is smooth on every box, and graded towards every cut, because that is where
composites and roots hide what is narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pi_compiler.approx.cost import evaluation_cost
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.poly import Approximant, Certificate, Domain, FloatArray, Piecewise, Poly, check_domain
from pi_compiler.approx.targets import Function, Target, as_target

__all__ = ["Peak", "breakpoints", "certify", "exceedance", "extent", "largest"]

_NODES = 17
_ROUNDS = 70
_MAX_BOXES = 5_000
_TOLERANCE = 1e-6
_GRADED = np.array([0.0, *2.0 ** np.arange(-52.0, -3.0), *np.arange(0.125, 0.9, 0.125)])
_GRADED = np.unique(np.concatenate([_GRADED, 1.0 - _GRADED]))
_CHEB = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
_CHECK = np.cos(np.pi * np.arange(1, _NODES) / _NODES)
_TO_COEF = np.cos(np.arange(_NODES)[:, None] * np.arccos(_CHEB)) * 2.0 / _NODES
_TO_COEF[0] *= 0.5
_TO_CHECK = np.cos(np.arccos(_CHECK)[:, None] * np.arange(_NODES))


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest absolute value of a function.

    Attributes:
        bound: an upper bound.
        value: the largest value that was seen; never above ``bound``.
        at: where.
        resolved: false if the search stopped at its limits and ``bound`` is therefore loose.
    """

    bound: float
    value: float
    at: float
    resolved: bool


def largest(
    function: Callable[[FloatArray], FloatArray],
    domain: Domain,
    *,
    breaks: Sequence[float] = (),
    noise: float = 0.0,
) -> Peak:
    """The largest absolute value on an interval.

    Args:
        function: vectorized; smooth between the breaks.
        domain: closed interval.
        breaks: points where the function or a derivative jumps; the suprema of both sides count.
        noise: rounding error of the function's values, below which nothing is resolved.

    Raises:
        ApproximationError: the function is not finite somewhere on the interval.
    """
    low, high = check_domain(domain)
    cuts = [low, *sorted({float(b) for b in breaks if low < b < high}), high]
    ends = np.array([np.nextafter(c, low) for c in cuts[1:]] + [np.nextafter(c, high) for c in cuts[:-1]] + cuts)
    at_ends = np.abs(_finite(function, ends))
    best, at = float(at_ends.max()), float(ends[at_ends.argmax()])
    edges = [np.array([a, *np.clip(a + (b - a) * _GRADED[1:-1], a, b), b]) for a, b in pairwise(cuts)]
    boxes = np.concatenate([np.stack([e[:-1], e[1:]], axis=1) for e in edges])
    boxes = boxes[boxes[:, 1] > boxes[:, 0]]
    bound, resolved = best, True
    for step in range(_ROUNDS):
        center, half = boxes.mean(axis=1), 0.5 * (boxes[:, 1] - boxes[:, 0])
        upper, seen, where = _model(function, boxes)
        i = int(seen.argmax())
        if seen[i] > best:
            best, at = float(seen[i]), float(where[i])
        small = half <= 16.0 * np.finfo(float).eps * np.maximum(np.abs(center), 1e-3 * (high - low))
        keep = (upper > best * (1.0 + _TOLERANCE) + noise) & ~small
        done = upper[~keep]
        bound = max(bound, float(done.max())) if done.size else bound
        boxes = boxes[keep]
        if boxes.size == 0:
            break
        if step == _ROUNDS - 1 or len(boxes) > _MAX_BOXES:
            bound, resolved = max(bound, float(upper[keep].max())), False
            break
        middle = boxes.mean(axis=1)
        boxes = np.concatenate([np.stack([boxes[:, 0], middle], 1), np.stack([middle, boxes[:, 1]], 1)])
    at = min(max(0.0 if abs(at) < 1e-300 else at, low), high)
    return Peak(max(bound, best) + noise, best, at, resolved)


def _finite(function: Callable[[FloatArray], FloatArray], x: FloatArray) -> FloatArray:
    with np.errstate(all="ignore"):
        y = np.asarray(function(x), dtype=np.float64)
    bad = ~np.isfinite(y)
    if bad.any():
        raise ApproximationError(f"the function or its replacement is not finite at {x[bad].ravel()[0]:g}")
    return y


def _model(
    function: Callable[[FloatArray], FloatArray], boxes: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Per box an upper bound, the largest value seen and where; box ends, perhaps cuts, are not touched."""
    low, high = boxes[:, :1], boxes[:, 1:]
    x = 0.5 * (low + high) + 0.5 * (high - low) * np.concatenate([_CHEB, _CHECK])
    x = np.clip(x, np.nextafter(low, high), np.nextafter(high, low))
    y = _finite(function, x)
    coef = y[:, :_NODES] @ _TO_COEF.T
    mismatch = np.abs(coef @ _TO_CHECK.T - y[:, _NODES:]).max(axis=1)
    c0, c1, c2 = coef[:, 0], coef[:, 1], coef[:, 2]
    ends = np.maximum(np.abs(c0 + c1 + c2), np.abs(c0 - c1 + c2))
    with np.errstate(all="ignore"):
        vertex = -c1 / (4.0 * c2)
        inner = np.where(np.abs(vertex) < 1.0, np.abs(c0 - c2 - c1 * c1 / (8.0 * c2)), 0.0)
    upper = np.maximum(ends, np.nan_to_num(inner)) + np.abs(coef[:, 3:]).sum(axis=1) + 2.0 * mismatch
    column = np.abs(y).argmax(axis=1)
    rows = np.arange(len(x))
    return upper, np.abs(y[rows, column]), x[rows, column]


def extent(poly: Poly, domain: Domain) -> Domain:
    """Least and largest value of a polynomial on an interval, from the roots of its derivative.

    Rounding widens it by a few units in the last place of the largest coefficient.
    """
    low, high = check_domain(domain)
    slope = Poly("chebyshev", poly.to("chebyshev").coef, poly.domain).derivative()
    coef = np.trim_zeros(np.asarray(slope.coef), "b")
    roots = np.polynomial.chebyshev.chebroots(coef) if coef.size > 1 else np.zeros(0)
    width, center = 0.5 * (poly.domain[1] - poly.domain[0]), 0.5 * (poly.domain[1] + poly.domain[0])
    x = center + width * roots.real[np.abs(roots.imag) < 1e-4]
    values = poly(np.array([low, high, *x[(x > low) & (x < high)]]))
    slack = 8.0 * float(np.finfo(float).eps) * float(np.abs(poly.coef).max())
    return float(values.min()) - slack, float(values.max()) + slack


def exceedance(values: ArrayLike, domain: Domain, confidence: float = 0.95) -> tuple[float, float]:
    """Fraction of values outside the interval, and its upper Clopper-Pearson bound.

    Args:
        values: held-out calibration values; NaN counts as outside.
        domain: closed interval.
        confidence: of the one-sided bound.

    Raises:
        ApproximationError: there are no values.
    """
    v = np.asarray(values, dtype=np.float64).ravel()
    if v.size == 0:
        raise ApproximationError("the exceedance needs at least one held-out value, found none")
    outside = int(v.size - ((v >= domain[0]) & (v <= domain[1])).sum())
    bound = 1.0 if outside == v.size else float(stats.beta.ppf(confidence, outside + 1, v.size - outside))
    return outside / v.size, bound


def breakpoints(approx: Approximant) -> tuple[float, ...]:
    """Points where the replacement is not smooth."""
    if not isinstance(approx, Piecewise):
        return ()
    if not approx.fold:
        return approx.breaks
    return (0.0, *approx.breaks, *(-b for b in approx.breaks))


def _rounding(goal: Target, approx: Approximant, part: Domain) -> float:
    """Size of the rounding errors of function and replacement in double precision.

    Twice what neighboring numbers differ by, and what the terms of a power series cancel.
    """
    grid = np.linspace(*part, 65)
    values = approx(grid)
    size = float(np.abs(_finite(goal, grid)).max()) + float(np.abs(values).max())
    steps = np.abs(approx(np.nextafter(grid, part[0])) - values)
    jitter = float(steps[~np.isin(grid, (*goal.kinks, *breakpoints(approx)))].max(initial=0.0))
    if isinstance(approx, Poly) and approx.basis == "power":
        size += float(np.abs(approx.coef) @ max(abs(part[0]), abs(part[1])) ** np.arange(len(approx.coef)))
    return 16.0 * float(np.finfo(float).eps) * size + 2.0 * jitter


def certify(
    function: Target | Function,
    approx: Approximant,
    domain: tuple[float, float],
    *,
    intervals: Sequence[Domain] | None = None,
    proven: tuple[float, float] | None = None,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Certificate:
    """Everything that is known about a replacement on an interval.

    Args:
        function: what is replaced; a plain callable counts as smooth.
        approx: what replaces it.
        domain: the certified interval.
        intervals: the parts of it on which the error counts, if not all (a sign's gap around 0).
        proven: a bound that already holds outside ``intervals``, and where it is about reached.
        density: weighs the root mean square error.
        held_out: calibration values that the fit has not seen, for the exceedance.

    Raises:
        DomainError: a malformed interval, or one on which the function is not finite.
        DensityError: the density has no mass on the interval.
    """
    goal = as_target(function)
    low, high = check_domain(domain)
    parts = [goal.check(part) for part in ([(low, high)] if intervals is None else intervals)]

    def error(x: FloatArray) -> FloatArray:
        return np.asarray(goal(x) - approx(x))

    peaks = []
    breaks = (*goal.kinks, *breakpoints(approx))
    for part in parts:
        peaks.append(largest(error, part, breaks=breaks, noise=_rounding(goal, approx, part)))
    if proven is not None:
        peaks.append(Peak(proven[0], proven[0], proven[1], True))
    peak = max(peaks, key=lambda p: p.bound)
    weighted = math.nan
    if density is not None:
        inside = density.within((low, high))
        weighted = math.sqrt(float((inside.mass * error(inside.points) ** 2).sum()))
    outside, outside_bound = (math.nan, math.nan) if held_out is None else exceedance(held_out, (low, high))
    center, half = 0.5 * (low + high), 0.75 * (high - low)
    with np.errstate(all="ignore"):
        growth = float(np.abs(approx(np.array([center - half, center + half]))).max())
    growth = growth if math.isfinite(growth) else math.inf
    cost = evaluation_cost(approx)
    return Certificate(
        domain=(low, high),
        max_error=peak.bound,
        at=peak.at,
        weighted_error=weighted,
        exceedance=outside,
        exceedance_bound=outside_bound,
        growth=growth,
        depth=cost.depth,
        products=cost.products,
        plain_products=cost.plain_products,
        comparisons=cost.comparisons,
        divisions=cost.divisions,
    )
