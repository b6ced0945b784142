"""Least squares under a density: the fit that is best where the data are.

The Chebyshev basis on the interval keeps the system well conditioned; the result may be asked
for in the power basis.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.polynomial import chebyshev as _cheb
from numpy.typing import ArrayLike

from pi_compiler.approx.certificate import certify
from pi_compiler.approx.chebyshev import interpolant, keep_parity
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, DensityError
from pi_compiler.approx.poly import Basis, Fit, Poly, check_degree
from pi_compiler.approx.targets import Function, Target, as_target

__all__ = ["uniform", "weighted"]


def weighted(
    function: Target | Function,
    degree: int,
    density: Density,
    *,
    domain: tuple[float, float] | None = None,
    basis: Basis = "chebyshev",
    floor: float = 0.0,
    held_out: ArrayLike | None = None,
) -> Fit:
    """The polynomial of least mean square error under a density.

    Args:
        function: what to replace.
        degree: of the polynomial.
        density: of the function's inputs, see ``Density.of_samples`` and ``Density.of_histogram``.
        domain: interval to certify; default the density's span. Mass outside is ignored.
        basis: of the result.
        floor: share of a uniform density that is mixed in, so that the polynomial also behaves
            where the data are thin (0.001 costs little).
        held_out: values for the certificate's exceedance.

    Raises:
        DegreeError: a degree below 0.
        DensityError: no mass on the interval, or fewer distinct points than coefficients.
        DomainError: a malformed interval, or a pole inside.
    """
    goal = as_target(function)
    check_degree(degree)
    interval = goal.check(density.span if domain is None else domain)
    if not 0.0 <= floor < 1.0:
        raise ApproximationError(f"the uniform share must be at least 0 and below 1, found {floor}")
    inside = density.within(interval)
    if floor > 0.0:
        inside = inside.mixed(Density.uniform(interval, max(1024, 8 * degree)), floor)
    if inside.points.size <= degree:
        raise DensityError(
            f"{inside.points.size} distinct points cannot determine a polynomial of degree {degree}; "
            "lower the degree, give more data, or mix in a uniform share (floor)"
        )
    frame = Poly("chebyshev", (0.0,), interval)
    root = np.sqrt(inside.mass)
    matrix = _cheb.chebvander(frame.mapped(inside.points), degree) * root[:, None]
    solution, _, rank, _ = np.linalg.lstsq(matrix, goal(inside.points) * root, rcond=None)
    if rank <= degree:
        raise DensityError(
            f"the density determines only {rank} of {degree + 1} coefficients; "
            "lower the degree or mix in a uniform share (floor)"
        )
    poly = Poly("chebyshev", tuple(float(c) for c in solution), interval).to(basis)
    certificate = certify(goal, poly, interval, density=density, held_out=held_out)
    return Fit(goal.name, poly, "least_squares", certificate)


def uniform(
    function: Target | Function, degree: int, domain: tuple[float, float], *, basis: Basis = "chebyshev"
) -> Fit:
    """The polynomial of least mean square error on an interval, every point counting alike.

    On an interval that is symmetric about 0 the function's parity is kept exactly.

    Raises:
        DegreeError: a degree below 0.
        DomainError: a malformed interval, or a pole inside.
    """
    goal = as_target(function)
    low, high = goal.check(domain)
    check_degree(degree, goal.symmetry_on((low, high)) if goal.offset == (0.0, 0.0) else None)
    cuts = [low, *(k for k in sorted(goal.kinks) if low < k < high), high]
    nodes, weights = np.polynomial.legendre.leggauss(max(64, 2 * degree))
    points = np.concatenate([0.5 * (b - a) * nodes + 0.5 * (a + b) for a, b in pairwise(cuts)])
    mass = np.concatenate([0.5 * (b - a) * weights for a, b in pairwise(cuts)])
    frame = Poly("chebyshev", (0.0,), (low, high))
    values = np.polynomial.legendre.legvander(frame.mapped(points), degree) * (mass * goal(points))[:, None]
    moments = (2.0 * np.arange(degree + 1) + 1.0) / (high - low) * values.sum(axis=0)
    series = interpolant(lambda x: np.polynomial.legendre.legval(frame.mapped(x), moments), (low, high), degree)
    poly = keep_parity(goal, series).to(basis)
    certificate = certify(goal, poly, (low, high), density=Density.uniform((low, high)))
    return Fit(goal.name, poly, "least_squares_uniform", certificate)
