"""Gates from composite signs: ReLU, abs and max as a line times a gate, and sign itself.

The stages come from ``pi_compiler.approx.sign``, or are the fixed polynomials f_n and g_n of
Cheon, Kim and Kim (ASIACRYPT 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.approx.certificate import certify, extent
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, DegreeError
from pi_compiler.approx.poly import Apply, Composite, Domain, Fit, Formula, Poly, Sum, Times
from pi_compiler.approx.sign import relu_degrees, relu_error, sign_degrees, sign_stages
from pi_compiler.approx.targets import Target, target

__all__ = ["gated", "gated_fg", "sign", "sign_fg"]


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
