"""Domain extension: a cheap map that folds a wide interval into a narrow one.

Cheon, Kim and Park (IEEE TIFS 2022): D(x) = x - 4 x^3 / (27 r^2) is near the identity around 0
and maps [-L r, L r] into [-r, r] for L up to 3 sqrt(3) / 2. Applied for r L^(n-1) ... r it takes an
interval L^n times as wide, at two levels and two products each. It suits functions that are flat
far out (sigmoid, tanh, erf) and, times x, those with a gate that is (SiLU, GELU). HETAL (Lee et
al., ICML 2023) uses it inside softmax with L = 2.

Here the polynomial at the end is fitted to what the map leaves: least squares over u = D(x)
with the error weighted up where it is large, so that no correction polynomial is needed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import chebyshev as _cheb
from numpy.typing import ArrayLike

from pi_compiler.approx.certificate import certify
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.poly import Apply, Fit, FloatArray, Formula, Poly, Times, check_degree
from pi_compiler.approx.targets import Target

__all__ = ["LARGEST_FACTOR", "SUITED", "extended", "folding_map"]

LARGEST_FACTOR = 1.5 * math.sqrt(3.0)
"""The largest L for which the map stays within the narrow interval."""

_FLAT = ("sigmoid", "tanh", "erf", "hard_sigmoid", "softsign")
_GATES = ("silu", "gelu", "gelu_tanh", "hard_swish")
_ROUNDS = 60

SUITED: tuple[str, ...] = (*_FLAT, *_GATES)
"""Targets that ``extended`` takes."""


def folding_map(radius: float, extensions: int, factor: float = 1.5) -> tuple[Poly, ...]:
    """The cubics that take [-radius factor^extensions, ...] into [-radius, radius], widest first.

    Raises:
        ApproximationError: a radius that is not positive, a factor outside (1, 1.5 sqrt 3], or
            no extension.
    """
    if not (math.isfinite(radius) and radius > 0.0):
        raise ApproximationError(f"the radius must be positive, found {radius}")
    if not 1.0 < factor <= LARGEST_FACTOR + 1e-12:
        raise ApproximationError(f"the factor must be above 1 and at most {LARGEST_FACTOR:.4f}, found {factor}")
    if extensions < 1:
        raise ApproximationError(f"at least one extension is needed, found {extensions}")
    radii = [radius * factor**i for i in range(extensions - 1, -1, -1)]
    return tuple(Poly("power", (0.0, 1.0, 0.0, -4.0 / (27.0 * r * r)), (-factor * r, factor * r)) for r in radii)


def extended(
    goal: Target,
    domain: tuple[float, float],
    degree: int,
    extensions: int,
    *,
    factor: float = 1.5,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """A function that is flat far out, or x times one, on a wide interval.

    Args:
        goal: sigmoid, tanh, erf, hard_sigmoid, softsign; silu, gelu, gelu_tanh or hard_swish.
        domain: closed interval; the map is made for its symmetric hull.
        degree: of the polynomial after the map.
        extensions: how many times the interval is widened.
        factor: by how much each time.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Raises:
        ApproximationError: any other target; see also ``folding_map``.
        DegreeError: a degree below 1 or above 127.
        DomainError: a malformed interval.
    """
    interval = goal.check(domain)
    check_degree(degree, "odd", largest=127)
    if goal.name in _FLAT:
        gate = goal
    elif goal.name in _GATES:
        gate = _gate_of(goal)
    else:
        raise ApproximationError(f"{goal.name} is not flat far out; known: {', '.join(SUITED)}")
    bound = max(abs(interval[0]), abs(interval[1]))
    radius = bound / factor**extensions
    maps = folding_map(radius, extensions, factor)
    series = _fitted(gate, maps, bound, degree, weighted=goal.name in _GATES)
    steps: list[Apply | Times] = [Apply(stage, i) for i, stage in enumerate((*maps, series))]
    if goal.name in _GATES:
        steps.append(Times(0, len(steps)))
    approx = Formula(tuple(steps), interval)
    certificate = certify(goal, approx, interval, density=density, held_out=held_out)
    note = f"{extensions} extensions by {factor:g}, degree {degree}"
    return Fit(goal.name, approx, "extended", certificate, notes=(note,))


def _gate_of(goal: Target) -> Target:
    """The function divided by x, as a target of its own; odd after the constant 1/2."""
    middle = goal.derivative(np.zeros(1))[0]

    def gate(x: FloatArray) -> FloatArray:
        safe = np.where(x == 0.0, 1.0, x)
        return np.asarray(np.where(x == 0.0, middle, goal(safe) / safe))

    return Target(goal.name, gate, gate, "odd", (0.5, 0.0), kinks=goal.kinks)


def _fitted(gate: Target, maps: tuple[Poly, ...], bound: float, degree: int, *, weighted: bool) -> Poly:
    """Odd polynomial (plus the constant) in u = D(x) that is about minimax for the gate over x."""
    x = bound * np.sin(0.5 * np.pi * np.linspace(0.0, 1.0, 60 * degree + 400)) ** 2
    u = x
    for stage in maps:
        u = stage(u)
    reach = float(np.abs(u).max())
    y = gate(x) - gate.offset[0]
    importance = x if weighted else np.ones_like(x)
    matrix = _cheb.chebvander(u / reach, degree)[:, 1::2] * importance[:, None]
    mass: FloatArray = np.ones(x.size)
    least, best = math.inf, np.zeros(matrix.shape[1])
    for _ in range(_ROUNDS):
        root = np.sqrt(mass)
        solution = np.linalg.lstsq(matrix * root[:, None], y * importance * root, rcond=None)[0]
        error = np.abs(matrix @ solution - y * importance)
        if error.max() < least:
            least, best = float(error.max()), np.asarray(solution, dtype=np.float64)
        if error.max() == 0.0:
            break
        mass = mass * (error / error.max() + 1e-3)
        mass = mass / mass.mean()
    coef = np.zeros(degree + 1)
    coef[1::2] = best
    coef[0] = gate.offset[0]
    return Poly("chebyshev", tuple(float(c) for c in coef), (-reach, reach))
