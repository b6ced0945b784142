"""Chebyshev interpolation and projection on an interval, at a given degree or for a given error.

Trefethen, Approximation Theory and Approximation Practice, chapters 3 (interpolants by the
discrete cosine transform) and 4 (projection).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft

from pi_compiler.approx.certificate import certify
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, PrecisionError
from pi_compiler.approx.minimax import MAX_DEGREE, remez
from pi_compiler.approx.poly import Basis, Domain, Fit, FloatArray, Poly, check_degree
from pi_compiler.approx.targets import Function, Target, as_target

__all__ = ["interpolant", "interpolate", "keep_parity", "project", "smallest"]

_PROJECTION_NODES = 4096


def interpolant(function: Callable[[FloatArray], FloatArray], domain: Domain, degree: int) -> Poly:
    """The interpolant in the degree + 1 Chebyshev nodes (of the first kind), without a certificate."""
    low, high = domain
    nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    values = np.asarray(function(0.5 * (high - low) * nodes + 0.5 * (high + low)), dtype=np.float64)
    coef = fft.dct(values, type=2) / (degree + 1)
    coef[0] *= 0.5
    return Poly("chebyshev", tuple(float(c) for c in coef), domain)


def keep_parity(goal: Target, poly: Poly) -> Poly:
    """The polynomial with the coefficients that the function's parity forbids set to exactly zero.

    Nothing is changed on an interval that is not symmetric about 0. A fit of x/2 plus an even
    function keeps its linear coefficient at exactly that slope.
    """
    parity = goal.symmetry_on(poly.domain)
    if parity is None:
        return poly
    half = 0.5 * (poly.domain[1] - poly.domain[0]) if poly.basis == "chebyshev" else 1.0
    wrong = 1 if parity == "even" else 0
    coef = [0.0 if i % 2 == wrong else c for i, c in enumerate(poly.coef)]
    if parity == "even" and len(coef) > 1:
        coef[1] = goal.offset[1] * half
    if parity == "odd":
        coef[0] = goal.offset[0]
    return Poly(poly.basis, tuple(coef), poly.domain)


def _fit(
    method: Literal["interpolate", "project", "minimax"],
    function: Target | Function,
    domain: tuple[float, float],
    degree: int,
    basis: Basis,
    density: Density | None,
    held_out: ArrayLike | None,
) -> Fit:
    goal = as_target(function)
    if method == "minimax":
        best = remez(goal, domain, degree, density=density, held_out=held_out)
        if basis == "power" and isinstance(best.approx, Poly):
            poly = best.approx.to("power")
            certificate = certify(goal, poly, poly.domain, density=density, held_out=held_out)
            return replace(best, approx=poly, certificate=certificate)
        return best
    interval = goal.check(domain)
    plain = goal.offset == (0.0, 0.0)
    check_degree(degree, goal.symmetry_on(interval) if plain else None)
    if method == "project":
        series = interpolant(goal, interval, max(_PROJECTION_NODES, 8 * degree) - 1)
        series = Poly("chebyshev", series.coef[: degree + 1], interval)
    else:
        series = interpolant(goal, interval, degree)
    poly = keep_parity(goal, series).to(basis)
    certificate = certify(goal, poly, interval, density=density, held_out=held_out)
    return Fit(goal.name, poly, f"chebyshev_{method}", certificate)


def interpolate(
    function: Target | Function,
    domain: tuple[float, float],
    degree: int,
    *,
    basis: Basis = "chebyshev",
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """The polynomial through the function's values in the Chebyshev nodes of the interval.

    Args:
        function: what to replace.
        domain: closed interval.
        degree: of the polynomial. If the interval is symmetric, parity is kept exactly.
        basis: of the result.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Raises:
        DegreeError: negative, above 1023, or 0 for an odd function.
        DomainError: a malformed interval, or a pole inside.
    """
    return _fit("interpolate", function, domain, degree, basis, density, held_out)


def project(
    function: Target | Function,
    domain: tuple[float, float],
    degree: int,
    *,
    basis: Basis = "chebyshev",
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """The Chebyshev series of the function, cut after the degree (computed on 4096 nodes).

    Arguments and errors are those of ``interpolate``.
    """
    return _fit("project", function, domain, degree, basis, density, held_out)


def smallest(
    function: Target | Function,
    domain: tuple[float, float],
    tolerance: float,
    *,
    method: Literal["interpolate", "project", "minimax"] = "interpolate",
    basis: Basis = "chebyshev",
    largest_degree: int = 255,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """The fit of smallest degree whose certified error is at most the tolerance.

    If none up to ``largest_degree`` is, the best one comes back with ``converged=False``. The
    method "minimax" often gets by with a smaller degree, at about twice the time; it ends at 127.

    Raises:
        PrecisionError: a tolerance that double precision cannot reach.
        DomainError: a malformed interval, or a pole inside.
    """
    goal = as_target(function)
    low, high = goal.check(domain)
    check_degree(largest_degree)
    largest_degree = min(largest_degree, MAX_DEGREE) if method == "minimax" else largest_degree
    size = float(np.abs(goal(np.linspace(low, high, 257))).max())
    limit = 64.0 * float(np.finfo(float).eps) * max(size, 1e-300)
    if not tolerance > limit:
        raise PrecisionError(
            f"an error of {tolerance:g} for {goal.name} on [{low:g}, {high:g}] is below the {limit:.1e} "
            "that double precision can certify there"
        )
    if basis not in ("power", "chebyshev"):
        raise ApproximationError(f"no basis {basis!r}; known: power, chebyshev")
    tried: dict[int, Fit] = {}

    def fit(degree: int) -> Fit:
        if degree not in tried:
            tried[degree] = _fit(method, goal, (low, high), degree, basis, density, held_out)
        return tried[degree]

    def good(degree: int) -> bool:
        return fit(degree).certificate.max_error <= tolerance

    bottom = 1
    top = 1
    while not good(top):
        if top >= largest_degree:
            best = min(tried.values(), key=lambda f: f.certificate.max_error)
            message = (
                f"{goal.name} on [{low:g}, {high:g}] needs a degree above {largest_degree} for an error of "
                f"{tolerance:g}; the best found has degree {_degree(best)} and error {best.certificate.max_error:.3g}"
            )
            return Fit(best.target, best.approx, best.method, best.certificate, converged=False, message=message)
        bottom, top = top + 1, min(largest_degree, 2 * top + 1)
    while bottom < top:
        middle = (bottom + top) // 2
        bottom, top = (bottom, middle) if good(middle) else (middle + 1, top)
    while top > 1 and good(top - 1):
        top -= 1
    return fit(top)


def _degree(fit: Fit) -> int:
    return fit.approx.degree if isinstance(fit.approx, Poly) else 0
