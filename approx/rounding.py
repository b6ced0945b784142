"""Coefficients in fixed point, as secret sharing needs them, with the error certified again.

Polynomials with coefficients that are multiples of 2^-bits form a lattice. The point nearest to
the fit is found by reducing its basis and Babai's nearest plane (Brisebarre and Chevillard, ARITH
2007), which beats rounding every coefficient by far; short lattice vectors are then added as long
as that lowers the largest error. PILLAR-ESPN (Diaa et al., 2024) solves an integer program for
the same purpose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.approx.certificate import certify
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.poly import Fit, FloatArray, Poly
from pi_compiler.approx.targets import Function, Target, as_target

__all__ = ["fewest_bits", "round_coefficients"]

_MAX_BITS = 52
_SWEEPS = 60


def round_coefficients(
    function: Target | Function,
    fit: Fit,
    bits: int,
    *,
    allowed: float | None = None,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """The fit with coefficients of x^i that are multiples of 2^-bits.

    Args:
        function: what the fit replaces.
        fit: a single polynomial.
        bits: fractional bits, 0 to 52.
        allowed: the error that must not be exceeded; default that of the fit's certificate and
            one part in 2^10 of it.
        density: for the certificate's weighted error.
        held_out: values for the certificate's exceedance.

    Returns:
        A fit in the power basis; ``converged=False`` if its certified error is above ``allowed``.

    Raises:
        ApproximationError: the fit is not a single polynomial, or bits are out of range.
    """
    goal = as_target(function)
    if not isinstance(fit.approx, Poly):
        raise ApproximationError(f"only a single polynomial can be rounded, not a {type(fit.approx).__name__}")
    if not 0 <= bits <= _MAX_BITS:
        raise ApproximationError(f"fractional bits must be 0 to {_MAX_BITS}, found {bits}")
    limit = fit.certificate.max_error * (1.0 + 2.0**-10) if allowed is None else allowed
    domain = fit.certificate.domain
    power = fit.approx.to("power")
    unit = 2.0**-bits
    x = _grid(goal, domain, len(power.coef))
    matrix, y = np.vander(x, len(power.coef), increasing=True), goal(x)
    basis, change = _reduced(unit * matrix.T)
    nearest = unit * _nearest(basis, change, matrix @ np.array(power.coef))
    plain = np.round(np.array(power.coef) / unit) * unit
    start = min((nearest, plain), key=lambda c: float(np.abs(matrix @ c - y).max()))
    chosen = _descend(matrix, y, start, unit * change)
    poly = Poly("power", tuple(float(c) for c in chosen), power.domain)
    certificate = certify(goal, poly, domain, density=density, held_out=held_out)
    message = ""
    if certificate.max_error > limit:
        message = (
            f"{bits} fractional bits leave {goal.name} with an error of {certificate.max_error:.3g}, "
            f"above the {limit:.3g} allowed"
        )
    return Fit(goal.name, poly, f"{fit.method}_rounded", certificate, not message, message, (f"{bits} bits",))


def fewest_bits(
    function: Target | Function,
    fit: Fit,
    *,
    allowed: float | None = None,
    density: Density | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """``round_coefficients`` with the fewest bits that keep the error allowed.

    Returns:
        The rounded fit; with 52 bits and ``converged=False`` if even these are too few.

    Raises:
        ApproximationError: the fit is not a single polynomial.
    """
    rounded = round_coefficients(function, fit, _MAX_BITS, allowed=allowed, density=density, held_out=held_out)
    low, high = 0, _MAX_BITS
    while low < high and rounded.converged:
        middle = (low + high) // 2
        candidate = round_coefficients(function, fit, middle, allowed=allowed, density=density, held_out=held_out)
        if candidate.converged:
            high, rounded = middle, candidate
        else:
            low = middle + 1
    return rounded


def _grid(goal: Target, domain: tuple[float, float], size: int) -> FloatArray:
    count = 40 * size
    x = 0.5 * (domain[1] - domain[0]) * np.cos(np.pi * np.arange(count + 1) / count) + 0.5 * (domain[1] + domain[0])
    return np.unique(np.concatenate([x, [k for k in goal.kinks if domain[0] < k < domain[1]]]))


def _reduced(basis: FloatArray, delta: float = 0.99) -> tuple[FloatArray, FloatArray]:
    """Lenstra, Lenstra and Lovasz's reduction of the rows; also the integer change of basis."""
    b, change = basis.copy(), np.eye(len(basis))
    k = 1
    while k < len(b):
        for j in range(k - 1, -1, -1):
            orthogonal, mu = _orthogonal(b[: k + 1])
            factor = np.round(mu[k, j])
            if factor:
                b[k] -= factor * b[j]
                change[k] -= factor * change[j]
        orthogonal, mu = _orthogonal(b[: k + 1])
        lengths = (orthogonal**2).sum(axis=1)
        if lengths[k] >= (delta - mu[k, k - 1] ** 2) * lengths[k - 1]:
            k += 1
        else:
            b[[k, k - 1]], change[[k, k - 1]] = b[[k - 1, k]], change[[k - 1, k]]
            k = max(k - 1, 1)
    return b, change


def _orthogonal(b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gram and Schmidt's vectors and coefficients, by a QR decomposition."""
    q, r = np.linalg.qr(b.T)
    diagonal = np.diag(r).copy()
    diagonal[diagonal == 0.0] = 1e-300
    return (q * diagonal).T, (r / diagonal[:, None]).T


def _nearest(basis: FloatArray, change: FloatArray, goal: FloatArray) -> FloatArray:
    """Babai's nearest plane: integer coordinates of a lattice point near the goal."""
    orthogonal, _ = _orthogonal(basis)
    rest, result = goal.copy(), np.zeros(len(basis))
    for i in range(len(basis) - 1, -1, -1):
        factor = np.round(rest @ orthogonal[i] / (orthogonal[i] @ orthogonal[i]))
        rest -= factor * basis[i]
        result += factor * change[i]
    return result


def _descend(matrix: FloatArray, y: FloatArray, start: FloatArray, moves: FloatArray) -> FloatArray:
    """Add moves, their negatives and pairs of them while the largest error falls."""
    pairs = [moves[i] + s * moves[j] for i in range(len(moves)) for j in range(i) for s in (1.0, -1.0)]
    steps = np.concatenate([moves, np.array(pairs).reshape(-1, moves.shape[1])])
    steps = np.concatenate([steps, -steps])
    changes = matrix @ steps.T
    current, rest = start, matrix @ start - y
    for _ in range(_SWEEPS):
        errors = np.abs(rest[:, None] + changes).max(axis=0)
        i = int(errors.argmin())
        if errors[i] >= np.abs(rest).max():
            break
        current, rest = current + steps[i], rest + changes[:, i]
    return current
