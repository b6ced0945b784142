"""Reciprocal and inverse square root by iteration, with the number of iterations certified.

Reciprocal: Goldschmidt's iteration, plain or with THOR's adaptive over-relaxation (Moon et al.,
2024, softmax section): before each step the interval [e, 1] of x*y is stretched by k = 2 / (1 + e)
so that both ends move alike. The factors k are pushed into the first and the last affine map,
so that an iteration costs one level and two products and no plain product.

Inverse square root: a fitted seed, Newton's and Goldschmidt's iterations (NEXUS, Zhang et al.,
2024, layer normalization). The seed is the polynomial of least relative error, scaled so that the
first step treats both ends of its error alike; later steps may be over-relaxed in the same way.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.approx.certificate import certify
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, DomainError, PrecisionError
from pi_compiler.approx.minimax import remez
from pi_compiler.approx.poly import Apply, Domain, Fit, FloatArray, Formula, Poly, Sum, Times
from pi_compiler.approx.targets import target

__all__ = ["inv_sqrt", "iterations_needed", "reciprocal", "relaxation", "sqrt"]

_MAX_ITERATIONS = 60


def relaxation(e: float, *, relaxed: bool = True) -> tuple[float, float]:
    """Factor k for the interval [e, 1] of x*y, and the lower end after the step."""
    k = 2.0 / (1.0 + e) if relaxed else 1.0
    return k, k * e * (2.0 - k * e)


def iterations_needed(e: float, gap: float, *, relaxed: bool = True) -> int:
    """Steps until [e, 1] has become [1 - gap, 1].

    Raises:
        ApproximationError: e outside (0, 1], or a gap outside (0, 1).
    """
    if not (0.0 < e <= 1.0 and 0.0 < gap < 1.0):
        raise ApproximationError(f"needs an interval [e, 1] with 0 < e <= 1 and a gap in (0, 1), found {e} and {gap}")
    count = 0
    while e < 1.0 - gap and count < _MAX_ITERATIONS:
        _, e = relaxation(e, relaxed=relaxed)
        count += 1
    return count


def reciprocal(
    domain: tuple[float, float],
    *,
    iterations: int | None = None,
    tolerance: float | None = None,
    relaxed: bool = True,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """1 / x on an interval on one side of 0.

    Args:
        domain: closed interval without 0.
        iterations: how many steps, at least 1; or else
        tolerance: the largest absolute error, from which they are chosen.
        relaxed: over-relax (THOR); otherwise plain Goldschmidt.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Raises:
        DomainError: a malformed interval, or one that holds 0.
        PrecisionError: a tolerance that double precision cannot reach.
        ApproximationError: not exactly one of iterations and tolerance.
    """
    goal = target("reciprocal")
    low, high = goal.check(domain)
    near, far = sorted((abs(low), abs(high)))
    steps = _steps(iterations, tolerance, 1.0 / near, lambda gap: iterations_needed(near / far, gap, relaxed=relaxed))
    sign = 1.0 if low > 0.0 else -1.0
    approx = Formula(_goldschmidt(sign * far, near / far, steps, relaxed), (low, high))
    certificate = certify(goal, approx, (low, high), density=density, held_out=held_out)
    method = "reciprocal_relaxed" if relaxed else "reciprocal_goldschmidt"
    return _checked(Fit("reciprocal", approx, method, certificate, notes=(f"{steps} iterations",)), tolerance)


def _steps(iterations: int | None, tolerance: float | None, size: float, needed: object) -> int:
    if (iterations is None) == (tolerance is None):
        raise ApproximationError("give either the number of iterations or a tolerance")
    if iterations is not None:
        if not 1 <= iterations <= _MAX_ITERATIONS:
            raise ApproximationError(f"the number of iterations must be 1 to {_MAX_ITERATIONS}, found {iterations}")
        return iterations
    relative = float(tolerance or 0.0) / size
    if not relative > 64.0 * float(np.finfo(float).eps):
        raise PrecisionError(f"an error of {tolerance:g} where values reach {size:g} is below double precision")
    if not callable(needed):
        raise ApproximationError("no rule for the number of iterations")
    return max(1, int(needed(min(relative, 0.5))))


def _goldschmidt(far: float, e: float, steps: int, relaxed: bool) -> tuple[Apply | Times | Sum, ...]:
    """Steps of the iteration, scaled so that only squares, products and sums are left between the ends.

    With b_0 = x / far in [e, 1] the iteration is b' = k b (2 - k b). For u = 1 - k b it reads
    u' = (1 - k') + k' u^2, and y is the product of the k (1 + u). The scaled w = s u with
    s = sqrt(s' k') obeys w' = w^2 + c.
    """
    k = []
    for _ in range(steps):
        factor, e = relaxation(e, relaxed=relaxed)
        k.append(factor)
    s = [1.0] * steps
    for i in range(steps - 2, -1, -1):
        s[i] = math.sqrt(s[i + 1] * k[i + 1])
    total = math.prod(ki / si for ki, si in zip(k, s, strict=True)) / far
    total *= 2.0 / (1.0 + e) if relaxed else 1.0
    result: list[Apply | Times | Sum] = [Sum(((-s[0] * k[0] / far, 0),), s[0])]
    w = 1
    result.append(Sum(((1.0, w),), s[0]))
    product = 2
    for i in range(1, steps):
        result.append(Times(w, w))
        result.append(Sum(((1.0, len(result)),), s[i] * (1.0 - k[i])))
        w = len(result)
        result.append(Sum(((1.0, w),), s[i]))
        result.append(Times(product, len(result)))
        product = len(result)
    result.append(Sum(((total, product),)))
    return tuple(result)


def inv_sqrt(
    domain: tuple[float, float],
    *,
    seed_degree: int = 1,
    seed: Poly | None = None,
    newton: int | None = None,
    goldschmidt: int = 0,
    tolerance: float | None = None,
    relaxed: bool = True,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """1 / sqrt(x) on a positive interval.

    Args:
        domain: closed interval, above 0.
        seed_degree: of the fitted seed.
        seed: a seed of one's own instead; steps are then not relaxed.
        newton: number of Newton steps; or else
        tolerance: the largest absolute error, from which their number is chosen.
        goldschmidt: number of Goldschmidt steps after them.
        relaxed: over-relax the Newton steps.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Raises:
        DomainError: a malformed interval, or one that reaches 0.
        PrecisionError: a tolerance that double precision cannot reach.
        ApproximationError: not exactly one of newton and tolerance; negative numbers of steps.
    """
    goal = target("inv_sqrt")
    low, high = goal.check(domain)
    approx, note = _inv_sqrt_formula((low, high), seed_degree, seed, newton, goldschmidt, tolerance, relaxed)
    certificate = certify(goal, approx, (low, high), density=density, held_out=held_out)
    return _checked(Fit("inv_sqrt", approx, "inv_sqrt_newton", certificate, notes=(note,)), tolerance)


def sqrt(
    domain: tuple[float, float],
    *,
    seed_degree: int = 1,
    newton: int | None = None,
    goldschmidt: int = 0,
    tolerance: float | None = None,
    relaxed: bool = True,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """The square root on a positive interval, as x times ``inv_sqrt``; arguments and errors are the same."""
    goal = target("sqrt")
    low, high = target("inv_sqrt").check(domain)
    inner = None if tolerance is None else tolerance / high
    formula, note = _inv_sqrt_formula((low, high), seed_degree, None, newton, goldschmidt, inner, relaxed)
    approx = Formula((*formula.steps, Times(0, len(formula.steps))), (low, high))
    certificate = certify(goal, approx, (low, high), density=density, held_out=held_out)
    return _checked(Fit("sqrt", approx, "sqrt_newton", certificate, notes=(note,)), tolerance)


def _inv_sqrt_formula(
    domain: Domain,
    seed_degree: int,
    seed: Poly | None,
    newton: int | None,
    goldschmidt: int,
    tolerance: float | None,
    relaxed: bool,
) -> tuple[Formula, str]:
    if (newton is None) == (tolerance is None):
        raise ApproximationError("give either the number of Newton steps or a tolerance")
    if goldschmidt < 0 or (newton is not None and not 0 <= newton <= _MAX_ITERATIONS):
        raise ApproximationError(f"step numbers must be 0 to {_MAX_ITERATIONS}, found {newton} and {goldschmidt}")
    low, high = domain
    lower = 1.0
    if seed is None:
        seed, lower = _seed(domain, seed_degree, relaxed)
    if newton is None:
        relative = float(tolerance or 0.0) * math.sqrt(low)
        if not relative > 64.0 * float(np.finfo(float).eps):
            raise PrecisionError(
                f"an error of {tolerance:g} for inv_sqrt on [{low:g}, {high:g}] is below double precision"
            )
        newton = _newton_needed(lower, min(relative, 0.5), relaxed, goldschmidt)
    steps: list[Apply | Times | Sum] = [Apply(seed, 0)]
    first = True
    for _ in range(newton):
        k = math.sqrt(3.0 / (1.0 + lower + lower * lower)) if relaxed and not first else 1.0
        lower = _newton_step(k * lower) if not first else lower
        first = False
        y = len(steps)
        steps += [Times(y, y), Sum(((0.5 * k**3, 0),)), Times(y, y + 2), Times(y + 1, y + 3)]
        steps.append(Sum(((1.5 * k, y), (-1.0, y + 4))))
    if goldschmidt:
        y = len(steps)
        steps += [Times(0, y), Sum(((0.5, y),))]
        g, h = y + 1, y + 2
        for _ in range(goldschmidt):
            steps += [Times(g, h), Sum(((-1.0, len(steps) + 1),), 0.5)]
            r = len(steps)
            steps += [Times(g, r), Sum(((1.0, g), (1.0, r + 1)))]
            steps += [Times(h, r), Sum(((1.0, h), (1.0, r + 3)))]
            g, h = r + 2, r + 4
        steps.append(Sum(((2.0, h),)))
    note = f"seed of degree {seed.degree}, {newton} Newton and {goldschmidt} Goldschmidt steps"
    return Formula(tuple(steps), domain), note


def _newton_step(s: float) -> float:
    return 0.5 * s * (3.0 - s * s)


def _newton_needed(lower: float, gap: float, relaxed: bool, goldschmidt: int) -> int:
    """Newton steps until, after the Goldschmidt steps, sqrt(x) y >= 1 - gap.

    ``lower`` is what the seed and the first step guarantee.
    """
    for count in range(1, _MAX_ITERATIONS):
        reached = lower
        for _ in range(goldschmidt):
            reached = _newton_step(reached)
        if reached >= 1.0 - gap:
            return count
        k = math.sqrt(3.0 / (1.0 + lower + lower * lower)) if relaxed else 1.0
        lower = _newton_step(k * lower)
    return _MAX_ITERATIONS


def _seed(domain: Domain, degree: int, relaxed: bool) -> tuple[Poly, float]:
    """A seed, and the least value of sqrt(x) y after one Newton step from it."""

    def weight(x: FloatArray) -> FloatArray:
        return np.asarray(np.sqrt(x))

    fit = remez(target("inv_sqrt"), domain, degree, weight=weight)
    seed = fit.approx
    if not isinstance(seed, Poly):
        raise ApproximationError("the seed of the inverse square root is not a polynomial")
    x = np.concatenate([np.geomspace(*domain, 4097), np.linspace(*domain, 4097)])
    s = np.sqrt(x) * seed(x)
    spread = float(np.abs(s - 1.0).max())
    if spread >= 1.0:
        raise DomainError(
            f"a seed of degree {degree} cannot start an inverse square root on [{domain[0]:g}, {domain[1]:g}]; "
            "raise seed_degree"
        )
    scale = math.sqrt(3.0 / (3.0 + spread * spread))
    return seed.affine(scale, 0.0), _newton_step(scale * (1.0 - spread))


def _checked(fit: Fit, tolerance: float | None) -> Fit:
    error = fit.certificate.max_error
    if tolerance is None or error <= tolerance:
        return fit
    message = f"{fit.target}: the certified error is {error:.3g}, asked for {tolerance:.3g}"
    return Fit(fit.target, fit.approx, fit.method, fit.certificate, False, message, fit.notes)
