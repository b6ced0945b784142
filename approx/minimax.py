"""Best uniform approximation: polynomials of least maximum error, on one or several intervals.

Parity is used where the function has one, or forced where asked for; a weight may stand in for a
relative error. The work is done by ``exchange``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import mpmath
import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.approx.certificate import certify
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, DegreeError
from pi_compiler.approx.exchange import Precision, exchange
from pi_compiler.approx.poly import Domain, Fit, Poly, check_degree
from pi_compiler.approx.targets import Function, Target, as_target

__all__ = ["MAX_DEGREE", "remez"]

Parity: TypeAlias = Literal["odd", "even"]

MAX_DEGREE = 127
"""Largest degree of a minimax fit."""


def remez(
    function: Target | Function,
    domain: tuple[float, float],
    degree: int,
    *,
    intervals: Sequence[Domain] | None = None,
    parity: Parity | Literal["auto"] | None = "auto",
    weight: Function | None = None,
    precision: Precision = "auto",
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """The polynomial of least maximum error.

    Args:
        function: what to replace.
        domain: closed interval.
        degree: of the polynomial.
        intervals: the parts of the domain on which the error counts, if not all; ascending.
        parity: "auto" uses the function's own where the domain is symmetric; "odd" and "even"
            force a basis; None uses every degree.
        weight: positive function; minimizes the largest weight * |error| instead.
        precision: "auto" uses mpmath where double precision does not level the error.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Returns:
        A fit with ``converged=False`` and a message if the error could not be levelled.

    Raises:
        DegreeError: negative, above 127, or below what the parity allows.
        DomainError: a malformed interval, or a pole inside.
        ApproximationError: intervals that overlap or leave the domain; a parity on a domain
            that is not symmetric; a weight that is not positive; mpmath asked for a function
            that is only known in double precision.
    """
    goal = as_target(function)
    low, high = goal.check(domain) if intervals is None else (float(domain[0]), float(domain[1]))
    parts = _parts(goal, (low, high), intervals)
    symmetric = abs(low + high) <= 1e-12 * (high - low) and _mirrored(parts)
    offset = goal.offset
    if parity == "auto":
        usable = symmetric and weight is None and (degree >= 1 or offset[1] == 0.0)
        kind = goal.parity if usable else None
    else:
        kind = parity
        if kind is not None and not symmetric:
            raise ApproximationError(f"an {kind} fit needs a domain symmetric about 0, found [{low:g}, {high:g}]")
        if kind != goal.parity:
            offset = (0.0, 0.0)
    check_degree(degree, kind if offset == (0.0, 0.0) or parity != "auto" else None, largest=MAX_DEGREE)
    w = _checked_weight(weight, parts)
    if precision == "mpmath" and _precise(goal, offset) is None:
        raise ApproximationError(f"{goal.name} is not known to mpmath")
    mirror = kind is not None
    if kind is None:
        offset = (0.0, 0.0)
    indices = [i for i in range(degree + 1) if kind is None or i % 2 == (kind == "odd")]
    if not indices:
        raise DegreeError(f"degree {degree} leaves no coefficient")
    found = exchange(
        lambda x: goal(x) - offset[0] - offset[1] * x,
        _right_half(parts) if mirror else parts,
        indices,
        (low, high),
        weight=w,
        points=goal.kinks,
        precise=_precise(goal, offset),
        precision=precision,
    )
    coef = np.zeros(max(degree + 1, len(found.coef), 2))
    coef[: len(found.coef)] = found.coef
    half = 0.5 * (high - low)
    coef[0] += offset[0] + offset[1] * 0.5 * (low + high)
    coef[1] += offset[1] * half
    poly = Poly("chebyshev", tuple(float(c) for c in coef[: max(degree + 1, 1)]), (low, high))
    certificate = certify(goal, poly, (low, high), intervals=parts, density=density, held_out=held_out)
    message = ""
    if not found.converged:
        message = (
            f"the error of degree {degree} for {goal.name} on [{low:g}, {high:g}] could not be levelled; "
            f"the certified error is {certificate.max_error:.3g}"
        )
    notes = ("mpmath",) if found.precise else ()
    return Fit(goal.name, poly, "minimax", certificate, found.converged, message, notes)


def _parts(goal: Target, domain: Domain, intervals: Sequence[Domain] | None) -> list[Domain]:
    parts = [goal.check(i) for i in (intervals if intervals is not None else [domain])]
    ends = [domain[0], *(e for part in parts for e in part), domain[1]]
    if not parts or any(b < a for a, b in pairwise(ends)):
        raise ApproximationError(f"intervals {parts} are not ascending, disjoint parts of {domain}")
    return parts


def _mirrored(parts: Sequence[Domain]) -> bool:
    mirrored = [(-b, -a) for a, b in reversed(parts)]
    return bool(np.allclose(mirrored, parts, rtol=1e-12, atol=0.0))


def _right_half(parts: Sequence[Domain]) -> list[Domain]:
    return [(max(a, 0.0), b) for a, b in parts if b > 0.0]


def _checked_weight(weight: Function | None, parts: Sequence[Domain]) -> Function:
    if weight is None:
        return np.ones_like
    values = np.concatenate([weight(np.linspace(*part, 257)) for part in parts])
    if not (np.isfinite(values).all() and (values > 0.0).all()):
        raise ApproximationError("the weight is not positive and finite on all of the domain")
    return weight


_PRECISE: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "abs": abs,
    "erf": mpmath.erf,
    "exp": mpmath.exp,
    "gelu": lambda x: x * mpmath.ncdf(x),
    "inv_sqrt": lambda x: 1 / mpmath.sqrt(x),
    "log": mpmath.log,
    "reciprocal": lambda x: 1 / x,
    "relu": lambda x: max(x, mpmath.mpf(0)),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "sign": mpmath.sign,
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "sqrt": mpmath.sqrt,
    "tanh": mpmath.tanh,
}


def _precise(goal: Target, offset: tuple[float, float]) -> Callable[[mpmath.mpf], mpmath.mpf] | None:
    """The function for mpmath, without its offset; None if only doubles know it."""
    function = _PRECISE.get(goal.name)
    if function is None or goal.params:
        return None
    return lambda x: function(x) - mpmath.mpf(offset[0]) - mpmath.mpf(offset[1]) * x
