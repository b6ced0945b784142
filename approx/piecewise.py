"""Piecewise polynomials, for protocols that can compare (MPC): published ones, and fitted ones.

Constants: PUMA (Dong et al., 2023, section 4.1) for GELU; BumbleBee's open implementation for
GELU by a quartic in |x|; MPCFormer (Li et al., ICLR 2023, section 3.1) for its Quad, which is no
approximation but a replacement to be trained in.
"""

from __future__ import annotations

import math
from typing import Literal

from numpy.typing import ArrayLike

from pi_compiler.approx.certificate import certify
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.minimax import remez
from pi_compiler.approx.poly import Domain, Fit, Piecewise, Poly, check_degree
from pi_compiler.approx.targets import Function, Target, as_target, custom, target

__all__ = ["bumblebee_gelu", "fitted", "mpcformer_quad", "puma_gelu"]

_PUMA_LEFT = (-0.5054031199708174, -0.42226581151983866, -0.11807612951181953, -0.011034134030615728)
_PUMA_MIDDLE = (
    0.008526321541038084, 0.5, 0.3603292692789629, 0.0, -0.037688200365904236, 0.0, 0.0018067462606141187,
)  # fmt: skip
_BUMBLEBEE = (
    0.001620808531841547, -0.03798164612714154, 0.5410550166368381, -0.18352506127082727, 0.020848611754127593,
)  # fmt: skip
_QUAD = {"training": (0.5, 0.25, 0.125), "benchmark": (0.25, 0.5, 0.125)}
_HALVINGS = 40
_AIM = 1.0 - 1e-5
"""What pieces take of the tolerance: certified as one, on another grid, their error is larger by 1e-6 of it."""


def puma_gelu(domain: tuple[float, float], *, density: Density | None = None, held_out: ArrayLike | None = None) -> Fit:
    """PUMA's GELU: 0, a cubic, a sextic and x, parted at -4, -1.95 and 3.

    Its largest error is the jump at 3, about 0.02.

    Raises:
        DomainError: a malformed interval.
    """
    goal = target("gelu")
    interval = goal.check(domain)
    pieces = ((0.0,), _PUMA_LEFT, _PUMA_MIDDLE, (0.0, 1.0))
    approx = Piecewise((-4.0, -1.95, 3.0), tuple(Poly("power", p, interval) for p in pieces), interval)
    certificate = certify(goal, approx, interval, density=density, held_out=held_out)
    return Fit("gelu", approx, "puma", certificate)


def bumblebee_gelu(
    domain: tuple[float, float],
    *,
    cut: float = 3.0,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """GELU as x/2 plus a quartic in the absolute value up to the cut, max(x, 0) beyond.

    Raises:
        DomainError: a malformed interval.
        ApproximationError: a cut that is not positive.
    """
    goal = target("gelu")
    interval = goal.check(domain)
    if not (math.isfinite(cut) and cut > 0.0):
        raise ApproximationError(f"the cut must be positive, found {cut}")
    pieces = (Poly("power", _BUMBLEBEE, interval), Poly("power", (0.0, 0.5), interval))
    approx = Piecewise((cut,), pieces, interval, fold=True, slope=0.5)
    certificate = certify(goal, approx, interval, density=density, held_out=held_out)
    return Fit("gelu", approx, "bumblebee", certificate)


def mpcformer_quad(
    domain: tuple[float, float],
    *,
    version: Literal["training", "benchmark"] = "training",
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """MPCFormer's Quad for GELU: 0.125 x^2 + 0.25 x + 0.5 as it trains, 0.125 x^2 + 0.5 x + 0.25 as it benchmarks.

    Raises:
        DomainError: a malformed interval.
        ApproximationError: an unknown version.
    """
    goal = target("gelu")
    interval = goal.check(domain)
    if version not in _QUAD:
        raise ApproximationError(f"no version {version!r} of Quad; known: {', '.join(_QUAD)}")
    approx = Poly("power", _QUAD[version], interval)
    certificate = certify(goal, approx, interval, density=density, held_out=held_out)
    return Fit("gelu", approx, f"mpcformer_{version}", certificate)


def fitted(
    function: Target | Function,
    domain: tuple[float, float],
    degree: int,
    tolerance: float,
    *,
    largest_count: int = 32,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """The fewest minimax pieces of one degree with an error within the tolerance.

    Outer pieces are the function's asymptotes as far in as they are good enough. On a symmetric
    domain a function that is even, or a line plus an even one, is fitted in the absolute value: half the pieces.

    Args:
        function: what to replace.
        domain: closed interval.
        degree: of every piece.
        tolerance: largest absolute error.
        largest_count: give up beyond so many pieces.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Returns:
        A fit; ``converged=False`` if the pieces do not suffice.

    Raises:
        DomainError: a malformed interval, or a pole inside.
        DegreeError: a degree below 0 or above 127.
        ApproximationError: a tolerance that is not positive.
    """
    goal = as_target(function)
    low, high = goal.check(domain)
    check_degree(degree, largest=127)
    if not tolerance > 0.0:
        raise ApproximationError(f"the tolerance must be positive, found {tolerance}")
    aim = _AIM * tolerance
    slope = goal.offset[1]
    fold = goal.symmetry_on((low, high)) == "even"
    inner = _without_line(goal, slope) if fold else goal
    start = 0.0 if fold else low
    pieces: list[Poly] = []
    breaks: list[float] = []
    first, last = start, high
    if not fold and goal.asymptotes[0] is not None:
        first = _asymptote(inner, goal.asymptotes[0], (low, high), aim, left=True)
    if goal.asymptotes[1] is not None:
        last = _asymptote(inner, _shifted(goal, fold, slope), (start, high), aim, left=False)
    last = max(last, first)
    if first > start and goal.asymptotes[0] is not None:
        pieces.append(_line(goal.asymptotes[0], (low, first)))
        breaks.append(first)
    reached, message = first, ""
    while reached < last and len(pieces) < largest_count:
        piece, reached = _longest(inner, (reached, last), degree, aim)
        pieces.append(piece)
        breaks.append(reached)
    if last < high and reached >= last:
        pieces.append(_line(_shifted(goal, fold, slope), (last, high)))
    else:
        breaks.pop()
    if reached < last:
        message = f"{largest_count} pieces of degree {degree} do not bring {goal.name} within {tolerance:g}"
    approx = Piecewise(tuple(breaks), tuple(pieces), (low, high), fold, slope if fold else 0.0)
    certificate = certify(goal, approx, (low, high), density=density, held_out=held_out)
    if not message and certificate.max_error > tolerance:
        message = f"the pieces for {goal.name} have a certified error of {certificate.max_error:.3g}"
    return Fit(goal.name, approx, "piecewise", certificate, not message, message, (f"{len(pieces)} pieces",))


def _without_line(goal: Target, slope: float) -> Target:
    return custom(goal.name, lambda x: goal(x) - slope * x, kinks=goal.kinks, defined_on=goal.defined_on)


def _shifted(goal: Target, fold: bool, slope: float) -> tuple[float, float]:
    line = goal.asymptotes[1] or (0.0, 0.0)
    return (line[0] - slope, line[1]) if fold else line


def _line(line: tuple[float, float], domain: Domain) -> Poly:
    return Poly("power", (line[1], line[0]), domain)


def _asymptote(goal: Target, line: tuple[float, float], domain: Domain, tolerance: float, *, left: bool) -> float:
    """How far in from one end the asymptote is good enough; that end itself if nowhere."""
    low, high = domain
    end, other = (low, high) if left else (high, low)
    if abs(float(goal(end)) - line[0] * end - line[1]) > tolerance:  # type: ignore[arg-type]
        return end
    good, bad = end, other
    for _ in range(_HALVINGS):
        middle = 0.5 * (good + bad)
        part = (min(end, middle), max(end, middle))
        if part[1] - part[0] <= 1e-9 * (high - low):
            break
        proof = certify(goal, _line(line, part), part)
        good, bad = (middle, bad) if proof.max_error <= tolerance else (good, middle)
    near = 1e-9 * (high - low)
    return next((float(p) for p in (other, *goal.kinks) if abs(p - good) <= near), good)


def _longest(goal: Target, domain: Domain, degree: int, tolerance: float) -> tuple[Poly, float]:
    """The minimax piece from the left end that reaches farthest within the tolerance."""
    low, high = domain
    found = _piece(goal, (low, high), degree)
    if found[1] <= tolerance:
        return found[0], high
    good, bad = low, high
    best: tuple[Poly, float] | None = None
    for _ in range(_HALVINGS):
        middle = 0.5 * (good + bad)
        if middle - low <= 1e-9 * (high - low):
            break
        poly, error = _piece(goal, (low, middle), degree)
        if error <= tolerance:
            good, best = middle, (poly, middle)
        else:
            bad = middle
        if bad - good <= 1e-6 * (high - low) and best is not None:
            break
    if best is None:
        raise ApproximationError(
            f"no piece of degree {degree} brings {goal.name} within {tolerance:g} right of {low:g}"
        )
    return best


def _piece(goal: Target, domain: Domain, degree: int) -> tuple[Poly, float]:
    fit = remez(goal, domain, degree, parity=None)
    poly = fit.approx
    if not isinstance(poly, Poly):
        raise ApproximationError("a piece is not a polynomial")
    return poly, fit.certificate.max_error
