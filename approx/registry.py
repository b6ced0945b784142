"""Every method under one signature: the place where an approximation is added.

A method is one line in ``METHODS``. The property suite runs over all of them and all targets that
they suit: the measured error is never above the certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.approx import (
    chebyshev,
    composite,
    exponential,
    extension,
    gaussian,
    hermite,
    least_squares,
    minimax,
    newton,
    piecewise,
    rational,
    rounding,
)
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.poly import Domain, Fit
from pi_compiler.approx.sign import relu_degrees
from pi_compiler.approx.targets import Target

__all__ = ["METHODS", "Method", "fit"]

_Fitter: TypeAlias = Callable[[Target, Domain, int, Density | None, ArrayLike | None], Fit]
_RELU = ("relu", "leaky_relu", "prelu")
_FG: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = (
    ((1, 1), (2, 1)), ((2, 1), (2, 1)), ((2, 1), (3, 1)), ((1, 2), (1, 2)), ((2, 2), (3, 2)), ((4, 2), (4, 2)),
)  # fmt: skip
_FLOOR = 1e-3  # without a uniform share nothing holds the polynomial between the data and the interval's ends
_ROUNDED_BITS = 16
_BITS = 14


@dataclass(frozen=True, slots=True)
class Method:
    """One way of replacing functions.

    Attributes:
        name: key of ``METHODS``.
        run: (target, domain, degree, density or None, held-out values or None) -> Fit.
        suits: whether it can replace this target on this domain.
        degrees: sensible values of the degree, smallest first.
        degree_means: what the degree is, where it is not that of a polynomial.
        protocol: "ckks" if levels and products are all it needs, "mpc" if it compares or divides.
    """

    name: str
    run: _Fitter
    suits: Callable[[Target, Domain], bool]
    degrees: tuple[int, ...]
    degree_means: str = "degree"
    protocol: str = "ckks"


def _any(goal: Target, domain: Domain) -> bool:
    return True


def _continuous(goal: Target, domain: Domain) -> bool:
    return goal.name not in ("sign", "step")


def _named(*names: str) -> Callable[[Target, Domain], bool]:
    return lambda goal, domain: goal.name in names


def _gate(goal: Target, domain: Domain) -> bool:
    return goal.name in (*_RELU, "abs", "max")


def _statistics(domain: Domain, density: Density | None) -> tuple[float, float]:
    """Mean and deviation of the density; without one, the domain counts as four deviations to each side."""
    if density is None:
        return 0.5 * (domain[0] + domain[1]), 0.125 * (domain[1] - domain[0])
    mean = float(density.mass @ density.points)
    return mean, math.sqrt(float(density.mass @ (density.points - mean) ** 2))


def _dapa(goal: Target, domain: Domain, degree: int, density: Density | None, held_out: ArrayLike | None) -> Fit:
    mean, std = _statistics(domain, density)
    return gaussian.dapa_fit(mean, std, degree, domain=domain, held_out=held_out, goal=goal)


def _hermite(goal: Target, domain: Domain, degree: int, density: Density | None, held_out: ArrayLike | None) -> Fit:
    mean, std = _statistics(domain, density)
    return hermite.expand(goal, degree, mean=mean, std=std, domain=domain, held_out=held_out)


def _squarings(domain: Domain) -> int:
    return max(0, math.ceil(math.log2((domain[1] - domain[0]) / 4.0)))


def _composite(goal: Target, domain: Domain, bits: int, density: Density | None, held_out: ArrayLike | None) -> Fit:
    degrees = relu_degrees(float(bits))
    return composite.gated(goal, domain, degrees=degrees, density=density, held_out=held_out)


def _composite_fg(goal: Target, domain: Domain, row: int, density: Density | None, held_out: ArrayLike | None) -> Fit:
    if not 0 <= row < len(_FG):
        raise ApproximationError(f"compositions are numbered 0 to {len(_FG) - 1}, found {row}")
    f, g = _FG[row]
    return composite.gated_fg(goal, domain, f=f, g=g, density=density, held_out=held_out)


def _rounded(goal: Target, domain: Domain, degree: int, density: Density | None, held_out: ArrayLike | None) -> Fit:
    best = minimax.remez(goal, domain, degree)
    return rounding.round_coefficients(goal, best, _ROUNDED_BITS, allowed=math.inf, density=density, held_out=held_out)


def _piecewise(goal: Target, domain: Domain, degree: int, density: Density | None, held_out: ArrayLike | None) -> Fit:
    size = float(np.abs(goal(np.linspace(*domain, 33))).max())
    return piecewise.fitted(goal, domain, degree, 0.01 * max(size, 1e-6), density=density, held_out=held_out)


_LIST: tuple[Method, ...] = (
    Method(
        "chebyshev",
        lambda t, d, n, w, h: chebyshev.interpolate(t, d, n, density=w, held_out=h),
        _any,
        (1, 3, 7, 15, 31, 63),
    ),
    Method(
        "chebyshev_project",
        lambda t, d, n, w, h: chebyshev.project(t, d, n, density=w, held_out=h),
        _any,
        (1, 3, 7, 15, 31, 63),
    ),
    Method(
        "least_squares",
        lambda t, d, n, w, h: least_squares.weighted(t, n, w or Density.uniform(d), domain=d, floor=_FLOOR, held_out=h),
        _any,
        (1, 2, 4, 8, 16),
    ),
    Method("least_squares_uniform", lambda t, d, n, w, h: least_squares.uniform(t, n, d), _any, (1, 2, 4, 8, 16, 32)),
    Method("minimax", lambda t, d, n, w, h: minimax.remez(t, d, n, density=w, held_out=h), _any, (1, 2, 4, 8, 16, 31)),
    Method("minimax_rounded", _rounded, _any, (1, 2, 3, 5), protocol="mpc"),
    Method("dapa", _dapa, _named(*_RELU), (1, 2, 3, 4)),
    Method("hermite", _hermite, lambda t, d: not t.poles and t.defined_on == (-math.inf, math.inf), (1, 2, 4, 8)),
    Method("composite", _composite, _gate, tuple(range(4, _BITS + 1)), "bits of precision on [-1, 1]"),
    Method("composite_fg", _composite_fg, _named(*_RELU, "abs"), tuple(range(len(_FG))), "row of a table"),
    Method(
        "exp_squaring",
        lambda t, d, n, w, h: exponential.scaling_squaring(d, n, _squarings(d), density=w, held_out=h),
        _named("exp"),
        (2, 3, 5, 7),
    ),
    Method(
        "exp_limit",
        lambda t, d, n, w, h: exponential.limit(d, n, density=w, held_out=h),
        lambda t, d: t.name == "exp" and d[1] <= 1.0,
        (4, 5, 6, 7, 8),
        "squarings",
    ),
    Method(
        "reciprocal_relaxed",
        lambda t, d, n, w, h: newton.reciprocal(d, iterations=n, density=w, held_out=h),
        _named("reciprocal"),
        (1, 2, 4, 6, 8),
        "iterations",
    ),
    Method(
        "reciprocal_goldschmidt",
        lambda t, d, n, w, h: newton.reciprocal(d, iterations=n, relaxed=False, density=w, held_out=h),
        _named("reciprocal"),
        (1, 2, 4, 8),
        "iterations",
    ),
    Method(
        "inv_sqrt_newton",
        lambda t, d, n, w, h: newton.inv_sqrt(d, newton=n, goldschmidt=1, density=w, held_out=h),
        _named("inv_sqrt"),
        (1, 2, 4, 6),
        "Newton steps",
    ),
    Method(
        "sqrt_newton",
        lambda t, d, n, w, h: newton.sqrt(d, newton=n, density=w, held_out=h),
        lambda t, d: t.name == "sqrt" and d[0] > 0.0,
        (1, 2, 4, 6),
        "Newton steps",
    ),
    Method(
        "extended",
        lambda t, d, n, w, h: extension.extended(t, d, n, 2, factor=2.0, density=w, held_out=h),
        _named(*extension.SUITED),
        (3, 7, 15),
    ),
    Method("piecewise", _piecewise, _continuous, (1, 2, 3, 4), protocol="mpc"),
    Method(
        "puma",
        lambda t, d, n, w, h: piecewise.puma_gelu(d, density=w, held_out=h),
        _named("gelu"),
        (6,),
        protocol="mpc",
    ),
    Method(
        "bumblebee",
        lambda t, d, n, w, h: piecewise.bumblebee_gelu(d, density=w, held_out=h),
        _named("gelu"),
        (4,),
        protocol="mpc",
    ),
    Method("mpcformer", lambda t, d, n, w, h: piecewise.mpcformer_quad(d, density=w, held_out=h), _named("gelu"), (2,)),
    Method(
        "rational",
        lambda t, d, n, w, h: rational.fit_rational(t, d, n, n - n % 2, density=w, held_out=h),
        _continuous,
        (2, 3, 5),
        "degree of the numerator",
        "mpc",
    ),
)

METHODS: Mapping[str, Method] = MappingProxyType({m.name: m for m in _LIST})
"""All methods by name."""


def fit(
    name: str,
    goal: Target,
    domain: tuple[float, float],
    degree: int,
    *,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """A replacement by a method's name.

    Args:
        name: key of ``METHODS``.
        goal: what to replace.
        domain: closed interval.
        degree: what ``Method.degree_means``.
        density: of the inputs, for methods that fit to it and for the certificate.
        held_out: values for the certificate's exceedance.

    Raises:
        ApproximationError: an unknown method, or one that does not suit the target there; see
            also the method itself.
        DomainError: a malformed interval, or a pole inside.
    """
    if name not in METHODS:
        raise ApproximationError(f"no method {name!r}; known: {', '.join(METHODS)}")
    interval = goal.check(domain)
    if not METHODS[name].suits(goal, interval):
        raise ApproximationError(f"{name} does not suit {goal.name} on [{interval[0]:g}, {interval[1]:g}]")
    return METHODS[name].run(goal, interval, degree, density, held_out)
