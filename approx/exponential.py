"""The exponential function: scaling and squaring, and the limit (1 + x / 2^t)^(2^t).

Both are composites that end in squarings, one product and one level each. A polynomial of the
scaled argument is squared s times, so that its error grows by 2^s exp(x - x / 2^s); it is fitted
with that weight. The limit form is PUMA's (Dong et al., 2023) and, with t = 8, that
of CrypTen and SPU; under MPC it is cut off to zero on the far left.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from pi_compiler.approx.certificate import certify
from pi_compiler.approx.cost import evaluation_cost
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, PrecisionError
from pi_compiler.approx.minimax import remez
from pi_compiler.approx.poly import Composite, Domain, Fit, FloatArray, Piecewise, Poly
from pi_compiler.approx.targets import custom, target

__all__ = ["limit", "scaling_squaring", "smallest"]

_SQUARE = Poly("power", (0.0, 0.0, 1.0), (-1.0, 1.0))
_MAX_SQUARINGS = 16
_LEFT_WEIGHT = 0.02  # what squaring makes small may be fitted worse, but not until it blows up


def scaling_squaring(
    domain: tuple[float, float],
    degree: int,
    squarings: int,
    *,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """exp(x) as the 2^squarings-th power of a polynomial for exp(x / 2^squarings).

    Args:
        domain: closed interval.
        degree: of the polynomial, at least 1.
        squarings: 0 to 16.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Raises:
        DegreeError: a degree below 0 or above 127.
        DomainError: a malformed interval.
        ApproximationError: squarings outside 0 to 16.
    """
    goal = target("exp")
    interval = goal.check(domain)
    if not 0 <= squarings <= _MAX_SQUARINGS:
        raise ApproximationError(f"the number of squarings must be 0 to {_MAX_SQUARINGS}, found {squarings}")
    rate = 2.0**-squarings

    def scaled(x: FloatArray) -> FloatArray:
        return np.asarray(np.exp(rate * x))

    def weight(x: FloatArray) -> FloatArray:
        return np.asarray(np.maximum(np.exp((1.0 - rate) * (x - interval[1])), _LEFT_WEIGHT))

    base = remez(custom("exp", scaled), interval, degree, weight=weight if squarings else None)
    if not isinstance(base.approx, Poly):
        raise ApproximationError("the seed of scaling and squaring is not a polynomial")
    approx = Composite((base.approx, *[_SQUARE] * squarings))
    certificate = certify(goal, approx, interval, density=density, held_out=held_out)
    note = f"degree {degree}, {squarings} squarings"
    return Fit("exp", approx, "exp_squaring", certificate, base.converged, base.message, (note,))


def smallest(
    domain: tuple[float, float],
    tolerance: float,
    *,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """Scaling and squaring of least depth, then fewest products, with a certified error within the tolerance.

    Raises:
        PrecisionError: a tolerance that double precision cannot reach.
        DomainError: a malformed interval.
    """
    low, high = target("exp").check(domain)
    if not tolerance > 256.0 * float(np.finfo(float).eps) * math.exp(high):
        raise PrecisionError(f"an error of {tolerance:g} for exp on [{low:g}, {high:g}] is below double precision")
    best: Fit | None = None
    for depth, _, degree, squarings in _options((low, high)):
        if _estimate((low, high), degree, squarings) > 8.0 * tolerance:
            continue
        fit = scaling_squaring((low, high), degree, squarings, density=density, held_out=held_out)
        best = fit if best is None or fit.certificate.max_error < best.certificate.max_error else best
        if fit.certificate.max_error <= tolerance:
            return fit
        if depth > _MAX_SQUARINGS + 2:
            break
    if best is None:
        best = scaling_squaring((low, high), 15, _MAX_SQUARINGS, density=density, held_out=held_out)
    message = f"exp on [{low:g}, {high:g}]: the best error found is {best.certificate.max_error:.3g}, not {tolerance:g}"
    return Fit(best.target, best.approx, best.method, best.certificate, False, message, best.notes)


def _options(domain: Domain) -> list[tuple[int, int, int, int]]:
    """(depth, products, degree, squarings), cheapest first."""
    options = []
    for degree in range(1, 32):
        seed = Poly("chebyshev", tuple(1.0 / (k + 1) for k in range(degree + 1)), domain)
        for squarings in range(_MAX_SQUARINGS + 1):
            cost = evaluation_cost(Composite((seed, *[_SQUARE] * squarings)))
            options.append((cost.depth, cost.products, degree, squarings))
    return sorted(options)


def _estimate(domain: Domain, degree: int, squarings: int) -> float:
    """Roughly the absolute error: the first neglected Chebyshev coefficient, amplified at the right end."""
    half = 0.5 * (domain[1] - domain[0]) / 2.0**squarings
    return float(2.0 ** (squarings + 1) * special.ive(degree + 1, half) * math.exp(min(domain[1], 700.0)))


def limit(
    domain: tuple[float, float],
    t: int,
    *,
    cutoff: float | None = None,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """exp(x) as (1 + x / 2^t)^(2^t), and 0 below the cutoff if one is given (one comparison).

    It is meant for x <= 0, after the maximum has been subtracted, and decays only while
    x > -2^(t+1).

    Args:
        domain: closed interval.
        t: number of squarings, 1 to 16.
        cutoff: PUMA uses -14 with t = 5.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Raises:
        ApproximationError: t outside 1 to 16.
        DomainError: a malformed interval.
    """
    goal = target("exp")
    interval = goal.check(domain)
    if not 1 <= t <= _MAX_SQUARINGS:
        raise ApproximationError(f"t must be 1 to {_MAX_SQUARINGS}, found {t}")
    powers = Composite((Poly("power", (1.0, 2.0**-t), interval), *[_SQUARE] * t))
    approx: Composite | Piecewise = powers
    if cutoff is not None:
        approx = Piecewise((float(cutoff),), (Poly("power", (0.0,), interval), powers), interval)
    certificate = certify(goal, approx, interval, density=density, held_out=held_out)
    return Fit("exp", approx, "exp_limit", certificate)
