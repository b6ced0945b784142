"""Rational functions, for protocols that can divide: Pade activation units with safe denominators.

The form is that of PAU (Molina, Schramowski and Kersting, ICLR 2020): degree 5 over degree 4. It
is fitted by Sanathanan and Koerner's iteration (linear least squares, weighted by the last
denominator) with Lawson's reweighting towards the least maximum error. PAU keeps its denominator
safe by taking an absolute value; here it is certified to stay above zero instead, which saves the
comparison.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import chebyshev as _cheb
from numpy.typing import ArrayLike

from pi_compiler.approx.certificate import certify, extent
from pi_compiler.approx.density import Density
from pi_compiler.approx.poly import Domain, Fit, FloatArray, Poly, Rational, check_degree
from pi_compiler.approx.targets import Function, Target, as_target

__all__ = ["fit_rational"]

_ROUNDS = 40


def fit_rational(
    function: Target | Function,
    domain: tuple[float, float],
    degree: int = 5,
    denominator_degree: int = 4,
    *,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """A rational function with a denominator that is positive on the domain.

    Where none is found that beats a polynomial, the denominator is 1.

    Args:
        function: what to replace.
        domain: closed interval.
        degree: of the numerator.
        denominator_degree: of the denominator.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Raises:
        DegreeError: a degree below 0 or above 40.
        DomainError: a malformed interval, or a pole inside.
    """
    goal = as_target(function)
    interval = goal.check(domain)
    check_degree(degree, largest=40)
    check_degree(denominator_degree, largest=40)
    t = _nodes(goal, interval, 40 * (degree + denominator_degree + 2))
    x = 0.5 * (interval[1] - interval[0]) * t + 0.5 * (interval[1] + interval[0])
    y = goal(x)
    best = _polynomial(interval, t, y, degree)
    weight: FloatArray = np.ones(x.size)
    below: FloatArray = np.ones(x.size)
    for _ in range(_ROUNDS):
        above, under = _linear(t, y, np.sqrt(weight) / np.abs(below), degree, denominator_degree)
        below = np.asarray(_cheb.chebval(t, under), dtype=np.float64)
        if not np.isfinite(below).all() or (np.abs(below) < 1e-12).any():
            break
        candidate = _positive(interval, above, under)
        error = np.abs(_cheb.chebval(t, above) / below - y)
        top = float(error.max())
        if candidate is not None and top < best[0]:
            best = (top, candidate)
        if top == 0.0:
            break
        weight = weight * (error / top + 1e-3)
        weight = weight / weight.mean()
    certificate = certify(goal, best[1], interval, density=density, held_out=held_out)
    return Fit(goal.name, best[1], "rational", certificate)


def _nodes(goal: Target, domain: Domain, count: int) -> FloatArray:
    """Chebyshev points of [-1, 1], kinks of the function included."""
    t = np.cos(np.pi * np.arange(count + 1) / count)
    kinks = [(2.0 * k - domain[0] - domain[1]) / (domain[1] - domain[0]) for k in goal.kinks]
    return np.unique(np.concatenate([t, [k for k in kinks if -1.0 < k < 1.0]]))


def _linear(
    t: FloatArray, y: FloatArray, weight: FloatArray, degree: int, denominator_degree: int
) -> tuple[FloatArray, FloatArray]:
    """Numerator and denominator (constant term 1) of least weighted linearized error."""
    above = _cheb.chebvander(t, degree)
    under = -_cheb.chebvander(t, denominator_degree)[:, 1:] * y[:, None]
    system = np.concatenate([above, under], axis=1) * weight[:, None]
    solution = np.asarray(np.linalg.lstsq(system, y * weight, rcond=None)[0], dtype=np.float64)
    return solution[: degree + 1], np.concatenate([[1.0], solution[degree + 1 :]])


def _polynomial(domain: Domain, t: FloatArray, y: FloatArray, degree: int) -> tuple[float, Rational]:
    """The least squares polynomial over 1, and its largest error on the nodes: what must be beaten."""
    coef = np.linalg.lstsq(_cheb.chebvander(t, degree), y, rcond=None)[0]
    numerator = Poly("chebyshev", tuple(float(c) for c in coef), domain)
    top = float(np.abs(_cheb.chebval(t, coef) - y).max())
    return top, Rational(numerator, Poly("chebyshev", (1.0,), domain))


def _positive(domain: Domain, above: FloatArray, under: FloatArray) -> Rational | None:
    """The rational function, scaled so that its denominator is at most 1; None if that has a zero."""
    denominator = Poly("chebyshev", tuple(float(c) for c in under), domain)
    low, high = extent(denominator, domain)
    sign = math.copysign(1.0, high + low)
    size = max(abs(low), abs(high))
    if min(low * sign, high * sign) <= 1e-6 * size:
        return None
    scale = sign / size
    numerator = Poly("chebyshev", tuple(float(c) * scale for c in above), domain)
    return Rational(numerator, denominator.affine(scale, 0.0))
