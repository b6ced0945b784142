"""Sign by composite minimax polynomials, and the gates built on it: ReLU, abs, max, step.

Lee, Lee, No and Kim (IEEE TDSC 2022): sign(x) is approached by odd polynomials applied one after
the other; each is minimax on the interval that the one before maps [eps, 1] to. The degrees come
from dynamic programming: the least depth, then the fewest products. Here every stage but the
last is divided by its largest value, so that all later stages live on [-1, 1] exactly.

Cheon, Kim and Kim (ASIACRYPT 2020): compositions of the fixed polynomials f_n and g_n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from pi_compiler.approx.certificate import certify, extent
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, DegreeError, PrecisionError
from pi_compiler.approx.minimax import exchange
from pi_compiler.approx.plan import plan_counts
from pi_compiler.approx.poly import Apply, Composite, Domain, Fit, FloatArray, Formula, Poly, Sum, Times
from pi_compiler.approx.targets import Target, target

__all__ = [
    "DEGREES",
    "gated",
    "gated_fg",
    "relu_degrees",
    "relu_error",
    "sign",
    "sign_degrees",
    "sign_fg",
    "sign_stages",
]

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


def _bound(domain: Domain, center: float = 0.0) -> float:
    return max(abs(domain[0] - center), abs(domain[1] - center))


def sign(
    domain: tuple[float, float],
    gap: float,
    *,
    degrees: Sequence[int] | None = None,
    tolerance: float | None = None,
    margin: float = 0.0,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """The sign of x outside a gap around 0.

    Args:
        domain: closed interval; the composite is made for its symmetric hull.
        gap: the error counts for x outside (-gap, gap) only.
        degrees: of the stages; or else
        tolerance: the largest error allowed, from which they are chosen.
        margin: see ``sign_stages``; relative to 1.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Raises:
        DomainError: a malformed interval.
        ApproximationError: not exactly one of degrees and tolerance; a gap that is not inside.
    """
    goal = target("sign")
    low, high = goal.check(domain)
    bound = _bound((low, high))
    if (degrees is None) == (tolerance is None):
        raise ApproximationError("give either the degrees of a sign composite or a tolerance")
    if not 0.0 < gap < bound:
        raise ApproximationError(f"the gap must lie between 0 and {bound:g}, found {gap:g}")
    chosen = tuple(degrees) if degrees is not None else sign_degrees(gap / bound, float(tolerance or 0.0))
    stages, _ = sign_stages(chosen, gap / bound, margin=margin)
    approx = Composite(_scaled(stages, 0.0, bound))
    parts = [part for part in ((low, -gap), (gap, high)) if part[0] < part[1]]
    proven = _proven(approx, stages, gap / bound, 0.0, bound, (low, high), goal, 1.0)
    edge = [(max(a, -1.001 * gap), min(b, 1.001 * gap)) for a, b in parts]
    certificate = certify(
        goal,
        approx,
        (low, high),
        intervals=[part for part in edge if part[0] < part[1]],
        proven=proven,
        density=density,
        held_out=held_out,
    )
    return _checked(Fit(goal.name, approx, "composite_sign", certificate, notes=(_named(chosen),)), tolerance)


def gated(
    goal: Target,
    domain: tuple[float, float],
    *,
    degrees: Sequence[int] | None = None,
    tolerance: float | None = None,
    margin: float = 0.0,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """relu, leaky_relu, prelu, abs or max with a constant: a line times a composite gate.

    ReLU is ``x * (0.5 + 0.5 sign(x))``; max(a, b) of two values is ``b + relu(a - b)``.

    Args:
        goal: one of these targets.
        domain: closed interval; the composite is made for its hull symmetric about the kink.
        degrees: of the stages; or else
        tolerance: the largest absolute error allowed, from which they are chosen.
        margin: see ``sign_stages``.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Raises:
        DomainError: a malformed interval.
        ApproximationError: any other target; not exactly one of degrees and tolerance.
        PrecisionError: a tolerance beyond double precision.
    """
    low, high = goal.check(domain)
    base, jump, center = _gate(goal)
    bound = _bound((low, high), center)
    if (degrees is None) == (tolerance is None):
        raise ApproximationError(f"give either the degrees of a composite for {goal.name} or a tolerance")
    if degrees is None:
        if not float(tolerance or 0.0) > 0.0:
            raise ApproximationError(f"the tolerance must be positive, found {tolerance}")
        degrees = relu_degrees(math.log2(2.0 * abs(jump) * bound / float(tolerance or 1.0)))
    _, eps = relu_error(degrees, margin=margin)
    stages, _ = sign_stages(degrees, eps, margin=margin)
    approx = _gate_formula(_scaled(stages, center, bound), base, jump, center, (low, high))
    proven = _proven(approx, stages, eps, center, bound, (low, high), goal, abs(jump) * bound)
    gap = [(max(low, center - eps * bound), min(high, center + eps * bound))]
    certificate = certify(
        goal,
        approx,
        (low, high),
        intervals=[part for part in gap if part[0] < part[1]],
        proven=proven,
        density=density,
        held_out=held_out,
    )
    return _checked(Fit(goal.name, approx, "composite", certificate, notes=(_named(degrees),)), tolerance)


def _gate(goal: Target) -> tuple[float, float, float]:
    """base, jump, center such that the function is (x - center)(base + jump sign(x - center)) + center or 0."""
    if goal.name == "abs":
        return 0.0, 1.0, 0.0
    if goal.name == "max":
        return 0.5, 0.5, goal.params["other"]
    if goal.name in ("relu", "leaky_relu", "prelu"):
        slope = 0.0 if goal.name == "relu" else next(iter(goal.params.values()))
        return 0.5 * (1.0 + slope), 0.5 * (1.0 - slope), 0.0
    raise ApproximationError(f"no composite gate for {goal.name}; there is one for relu, leaky_relu, prelu, abs, max")


def _proven(
    approx: Composite | Formula,
    stages: Sequence[Poly],
    eps: float,
    center: float,
    bound: float,
    domain: Domain,
    goal: Target,
    factor: float,
) -> tuple[float, float]:
    """A bound of the error outside the gap, and the worst point of a sample.

    The composite oscillates too often to search, so each stage's range on the image of the stage
    before is certified instead, and the last one's distance from 1 is the sign's error.
    """
    low, high = eps, 1.0
    for stage in stages:
        low, high = extent(stage, (low, high))
    error = factor * max(1.0 - low, high - 1.0)
    x = np.concatenate([center + bound * s * np.geomspace(eps, 1.0, 2049) for s in (-1.0, 1.0)])
    x = x[(x >= domain[0]) & (x <= domain[1])]
    if x.size == 0:
        return 0.0, 0.5 * (domain[0] + domain[1])
    seen = np.abs(goal(x) - approx(x))
    return error, float(x[seen.argmax()])


def _gate_formula(stages: Sequence[Poly], base: float, jump: float, center: float, domain: Domain) -> Formula:
    steps: list[Apply | Times | Sum] = []
    for i, stage in enumerate(stages):
        last = i == len(stages) - 1
        steps.append(Apply(stage.affine(jump, base) if last else stage, i))
    gate, argument = len(steps), 0
    if center != 0.0:
        steps.append(Sum(((1.0, 0),), -center))
        argument = len(steps)
    steps.append(Times(argument, gate))
    if center != 0.0:
        steps.append(Sum(((1.0, len(steps)),), center))
    return Formula(tuple(steps), domain)


def _scaled(stages: Sequence[Poly], center: float, bound: float) -> tuple[Poly, ...]:
    """The stages with the first one taking arguments from center -+ bound instead of -+1."""
    first = stages[0]
    if first.basis == "power":
        if center != 0.0:
            raise ApproximationError("a fixed composition needs a kink at 0")
        coef = tuple(c / bound**i for i, c in enumerate(first.coef))
        return Poly("power", coef, (-bound, bound)), *stages[1:]
    return Poly("chebyshev", first.coef, (center - bound, center + bound)), *stages[1:]


def _checked(fit: Fit, tolerance: float | None) -> Fit:
    """The fit, marked as not converged if its certificate is worse than what was asked for."""
    error = fit.certificate.max_error
    if tolerance is None or error <= tolerance * (1.0 + 1e-6):
        return fit
    message = f"the composite for {fit.target} has a certified error of {error:.3g}, asked for {tolerance:.3g}"
    return Fit(fit.target, fit.approx, fit.method, fit.certificate, False, message, fit.notes)


def _named(degrees: Sequence[int]) -> str:
    return "degrees " + ",".join(str(d) for d in degrees)


_G: dict[int, tuple[int, ...]] = {
    1: (2126, -1359),
    2: (3334, -6108, 3796),
    3: (4589, -16577, 25614, -12860),
    4: (5850, -34974, 97015, -113492, 46623),
}


def _f(n: int) -> Poly:
    """f_n(x) = sum_i C(2i, i) / 4^i x (1 - x^2)^i: flat at -1 and 1 to order n."""
    x = np.polynomial.Polynomial([0.0, 1.0])
    total = x * sum(math.comb(2 * i, i) / 4.0**i * (1.0 - x * x) ** i for i in range(n + 1))
    return Poly("power", tuple(float(c) for c in total.coef), (-1.0, 1.0))


def _g(n: int) -> Poly:
    coef = [0.0] * (2 * n + 2)
    coef[1::2] = [c / 1024.0 for c in _G[n]]
    return Poly("power", tuple(coef), (-1.0, 1.0))


def sign_fg(n_f: int, times_f: int, n_g: int, times_g: int) -> tuple[Poly, ...]:
    """Stages of f_n composed ``times_f`` times after g_n composed ``times_g`` times, for [-1, 1].

    Raises:
        DegreeError: f or g of an order outside 1 to 4, or no stage at all.
    """
    if not (1 <= n_f <= 4 and 1 <= n_g <= 4):
        raise DegreeError(f"f and g exist for orders 1 to 4, found f_{n_f} and g_{n_g}")
    if times_f < 0 or times_g < 0 or times_f + times_g == 0:
        raise DegreeError(f"a composition needs at least one stage, found {times_f} of f and {times_g} of g")
    return (_g(n_g),) * times_g + (_f(n_f),) * times_f


def gated_fg(
    goal: Target,
    domain: tuple[float, float],
    *,
    f: tuple[int, int] = (1, 2),
    g: tuple[int, int] = (1, 2),
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """``gated`` with the fixed polynomials of Cheon, Kim and Kim instead of a minimax composite.

    Args:
        goal: relu, leaky_relu, prelu or abs.
        domain: closed interval; the composition is scaled to its symmetric hull.
        f: order and number of the f stages.
        g: order and number of the g stages, which come first.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Raises:
        DomainError: a malformed interval.
        ApproximationError: any other target, or a bad order.
    """
    low, high = goal.check(domain)
    base, jump, center = _gate(goal)
    stages = _scaled(sign_fg(*f, *g), center, _bound((low, high), center))
    approx = _gate_formula(stages, base, jump, center, (low, high))
    certificate = certify(goal, approx, (low, high), density=density, held_out=held_out)
    return Fit(goal.name, approx, "composite_fg", certificate, notes=(f"f{f[0]}^{f[1]} o g{g[0]}^{g[1]}",))
