"""Stages of composite signs, and their degrees by dynamic programming.

Lee, Lee, No and Kim (IEEE TDSC 2022): sign(x) is approached by odd polynomials applied one after
the other; each is minimax on the interval that the one before maps [eps, 1] to. The degrees are
those of least depth, then fewest products. Here every stage but the last is divided by its
largest value, so that all later stages live on [-1, 1] exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy import optimize

from pi_compiler.approx.certificate import extent
from pi_compiler.approx.errors import ApproximationError, DegreeError, PrecisionError
from pi_compiler.approx.exchange import exchange
from pi_compiler.approx.plan import plan_counts
from pi_compiler.approx.poly import Composite, Domain, FloatArray, Poly

__all__ = ["DEGREES", "relu_degrees", "relu_error", "sign_degrees", "sign_stages"]

DEGREES: tuple[int, ...] = (3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
"""Degrees that the search for a composite may use."""

_MAX_BITS = 30.0
_SETTLED = 1e-9


def sign_stages(degrees: Sequence[int], eps: float, *, margin: float = 0.0) -> tuple[tuple[Poly, ...], float]:
    """Stages of a composite for sign on [-1, -eps] and [eps, 1], and its error there.

    Args:
        degrees: odd, first stage first.
        eps: half width of the gap around 0, inside (0, 1).
        margin: how far noise may push a value between stages; intermediate intervals are
            widened by it.

    Raises:
        DegreeError: a degree is even, negative or above 127.
        ApproximationError: eps outside (0, 1), or a negative margin.
    """
    if not 0.0 < eps < 1.0:
        raise ApproximationError(f"the gap's half width must lie in (0, 1), found {eps}")
    if margin < 0.0:
        raise ApproximationError(f"the margin must not be negative, found {margin}")
    if not degrees or any(d < 1 or d % 2 == 0 or d > 127 for d in degrees):
        raise DegreeError(f"a sign composite needs odd degrees from 1 to 127, found {list(degrees)}")
    stages: list[Poly] = []
    low, error = eps, 1.0
    for i, degree in enumerate(degrees):
        coef, (least, most) = _stage(degree, low)
        error = max(1.0 - least, most - 1.0)
        last = i == len(degrees) - 1
        if not last and error < _SETTLED:
            raise ApproximationError(
                f"after {i + 1} of {len(degrees)} stages the error is {error:.1e} already; drop the others"
            )
        top = 1.0 if last else most + margin
        stages.append(Poly("chebyshev", tuple(c / top for c in coef), (-1.0, 1.0)))
        low = max((least - margin) / top, 1e-12)
    return tuple(stages), error


@lru_cache(maxsize=8192)
def _stage(degree: int, low: float) -> tuple[tuple[float, ...], Domain]:
    """Minimax odd polynomial for 1 on [low, 1]: Chebyshev coefficients on [-1, 1], and its range."""
    found = exchange(np.ones_like, [(low, 1.0)], range(1, degree + 1, 2), (-1.0, 1.0))
    return found.coef, extent(Poly("chebyshev", found.coef, (-1.0, 1.0)), (low, 1.0))


def relu_error(degrees: Sequence[int], *, margin: float = 0.0) -> tuple[float, float]:
    """Least error of ReLU on [-1, 1] that these degrees reach, and the gap eps that gives it.

    The error is the larger of half the sign's error outside the gap and of x (1 - p(x)) / 2
    within; as eps grows the first falls and the second rises, so the best eps makes them equal.
    """
    inner = np.linspace(0.0, 1.0, 129)

    def errors(log_eps: float) -> tuple[float, float]:
        eps = 2.0**log_eps
        try:
            stages, outside = sign_stages(degrees, eps, margin=margin)
        except ApproximationError:  # the gap is so wide that the last stages have nothing to do
            return 1e-300, 1.0
        x = eps * inner
        return 0.5 * outside, 0.5 * float((x * np.abs(1.0 - Composite(stages)(x))).max())

    def imbalance(log_eps: float) -> float:
        outside, inside = errors(log_eps)
        return math.log(outside / inside)

    high = min(-0.02, -sum(math.log2(0.6 * d) for d in degrees if d > 1) + 1.0)
    while high < -1.0 and imbalance(high) > 0.0:
        high = min(high + 1.0, -0.02)
    low = high - 1.0
    while imbalance(low) < 0.0:
        low, high = low - 1.0, low
    log_eps = high if imbalance(high) > 0.0 else float(optimize.brentq(imbalance, low, high, xtol=2e-3))
    return max(errors(log_eps)), float(2.0**log_eps)


def sign_degrees(eps: float, error: float, *, allowed: Sequence[int] = DEGREES, max_depth: int = 40) -> tuple[int, ...]:
    """Degrees of a composite for sign on [eps, 1]: least depth, then fewest products.

    Args:
        eps: half width of the gap, inside (0, 1).
        error: largest error allowed outside the gap.
        allowed: odd degrees to choose from.
        max_depth: give up beyond it.

    Raises:
        PrecisionError: an error below what double precision can level, 1e-10.
        ApproximationError: eps outside (0, 1), or no composite within the depth.
    """
    if not 0.0 < eps < 1.0:
        raise ApproximationError(f"the gap's half width must lie in (0, 1), found {eps}")
    if not error >= 1e-10:
        raise PrecisionError(f"an error of {error:g} for sign is below the 1e-10 that double precision can level")
    needed = _reach((1.0 - eps) / (1.0 + eps)) - 0.02
    found = _first(
        _frontier(min(error, 0.999), tuple(allowed), max_depth), needed, lambda d: sign_stages(d, eps)[1] <= error
    )
    if found is None:
        raise ApproximationError(f"no sign composite of depth {max_depth} reaches error {error:g} for a gap of {eps:g}")
    return found


@lru_cache(maxsize=256)
def relu_degrees(bits: float, *, allowed: tuple[int, ...] = DEGREES, max_depth: int = 40) -> tuple[int, ...]:
    """Degrees for ReLU on [-1, 1] with error at most 2^-bits: least depth, then fewest products.

    Raises:
        PrecisionError: more than 30 bits.
        ApproximationError: no composite within the depth.
    """
    if not bits <= _MAX_BITS:
        raise PrecisionError(
            f"{bits:.1f} bits of ReLU are more than the {_MAX_BITS:.0f} that double precision can level"
        )
    error = 2.0**-bits
    needed = _reach(1.0 - 40.0 * error) if error < 1.0 / 40.0 else -math.inf
    found = _first(_frontier(min(2.0 * error, 0.999), allowed, max_depth), needed, lambda d: relu_error(d)[0] <= error)
    if found is None:
        raise ApproximationError(f"no composite of depth {max_depth} gives {bits:.1f} bits of ReLU")
    return found


def _first(
    frontier: Sequence[tuple[int, int, tuple[int, ...], float]],
    needed: float,
    good: Callable[[tuple[int, ...]], bool],
) -> tuple[int, ...] | None:
    """The first entry in order of depth, then products, that is good; halving the products within a depth."""
    for depth in sorted({entry[0] for entry in frontier}):
        entries = [entry for entry in frontier if entry[0] == depth and entry[3] >= needed]
        if not entries or not good(entries[-1][2]):
            continue
        low, high = 0, len(entries) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if good(entries[middle][2]) else (middle + 1, high)
        return entries[high][2]
    return None


def _reach(tau: float) -> float:
    """[1 - tau, 1 + tau] on the scale of the search: log atanh(tau)."""
    return math.log(max(math.atanh(min(tau, 1.0 - 1e-15)), 1e-15))


_GRID = np.linspace(math.log(16.0), math.log(1e-4), 60)


@lru_cache(maxsize=64)
def _curve(degree: int) -> tuple[FloatArray, FloatArray]:
    """Reach after the minimax polynomial of a degree against reach before, both ascending."""
    before, after = [], []
    for s in _GRID:
        tau = math.tanh(math.exp(s))
        least, most = _stage(degree, max((1.0 - tau) / (1.0 + tau), 1e-13))[1]
        error = max(1.0 - least, most - 1.0)
        if error < 1e-10:
            break
        before.append(s)
        after.append(_reach(error))
    return np.maximum.accumulate(np.array(after[::-1])), np.array(before[::-1])


def _frontier(error: float, allowed: tuple[int, ...], max_depth: int) -> list[tuple[int, int, tuple[int, ...], float]]:
    """(depth, products, degrees, reach) in order of depth, then products; reach only grows within a depth.

    Dynamic programming from the last stage to the first: the widest interval that some degrees
    of so much depth and so many products map into [1 - error, 1 + error].
    """
    costs = {d: plan_counts(d, parity="odd") for d in allowed}
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(0, 0): (_reach(error), ())}
    for depth in range(1, max_depth + 1):
        for d, (levels, products) in costs.items():
            for (before, spent), (reach, degrees) in [*best.items()]:
                if before + levels != depth:
                    continue
                after, grid = _curve(d)
                wider = float(np.interp(reach, after, grid)) if reach > after[0] else reach
                key = (depth, spent + products)
                if key not in best or wider > best[key][0]:
                    best[key] = (wider, (d, *degrees))
    result = []
    for depth in range(1, max_depth + 1):
        top = -math.inf
        for (n, products), (reach, degrees) in sorted(best.items()):
            if n == depth and reach > top:
                top = reach
                result.append((n, products, degrees, reach))
    return result
