"""Hermite expansions under standard normal inputs, and AESPA's activation built on them.

h_k = He_k / sqrt(k!) are orthonormal under N(0, 1); the expansion cut at degree d is the least
squares fit of degree d. AESPA (Park et al., 2022) replaces BatchNorm + ReLU by a sum of the
first three terms, each normalized on its own, which folds into one quadratic per channel.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.polynomial import hermite_e
from numpy.typing import ArrayLike

from pi_compiler.approx.certificate import certify
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.poly import Fit, FloatArray, Poly, check_degree
from pi_compiler.approx.targets import Function, Target, as_target

__all__ = ["coefficients", "expand", "fold_aespa"]

_REACH = 12.0
_MAX_DEGREE = 24


def coefficients(function: Target | Function, degree: int) -> FloatArray:
    """E[f(z) h_k(z)] for k = 0 .. degree and z ~ N(0, 1), by Gauss rules between the kinks.

    Raises:
        DegreeError: negative, or above 24, where the power basis loses the digits.
        DomainError: the function is not finite on [-12, 12].
    """
    goal = as_target(function)
    check_degree(degree, largest=_MAX_DEGREE)
    goal.check((-_REACH, _REACH))
    cuts = np.unique([*np.linspace(-_REACH, _REACH, 13), *(k for k in goal.kinks if abs(k) < _REACH)])
    nodes, weights = np.polynomial.legendre.leggauss(40)
    z = np.concatenate([0.5 * (b - a) * nodes + 0.5 * (a + b) for a, b in pairwise(cuts)])
    w = np.concatenate([0.5 * (b - a) * weights for a, b in pairwise(cuts)])
    w = w * np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    norms = np.sqrt([float(math.factorial(k)) for k in range(degree + 1)])
    return np.asarray((hermite_e.hermevander(z, degree) / norms).T @ (w * goal(z)))


def expand(
    function: Target | Function,
    degree: int,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    domain: tuple[float, float] | None = None,
    held_out: ArrayLike | None = None,
) -> Fit:
    """The Hermite expansion of ``function`` under N(mean, std^2), cut after the degree.

    Args:
        function: what to replace.
        degree: 0 to 24.
        mean: of the inputs.
        std: their standard deviation.
        domain: interval to certify; default four deviations around the mean.
        held_out: values for the certificate's exceedance.

    Raises:
        ApproximationError: a deviation that is not positive; see also ``coefficients``.
    """
    goal = as_target(function)
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0.0):
        raise ApproximationError(f"a Gaussian needs a finite mean and a positive deviation, found {mean} and {std}")
    interval = goal.check((mean - 4.0 * std, mean + 4.0 * std) if domain is None else domain)
    check_degree(degree, goal.parity if goal.offset == (0.0, 0.0) and mean == 0.0 else None)

    def standard(z: FloatArray) -> FloatArray:
        return goal(mean + std * z)

    shifted = Target(
        goal.name,
        standard,
        lambda z: std * goal.derivative(mean + std * z),
        kinks=tuple((k - mean) / std for k in goal.kinks),
        defined_on=((goal.defined_on[0] - mean) / std, (goal.defined_on[1] - mean) / std),
        poles=tuple((p - mean) / std for p in goal.poles),
    )
    norms = np.sqrt([float(math.factorial(k)) for k in range(degree + 1)])
    in_z = np.polynomial.Polynomial(hermite_e.herme2poly(coefficients(shifted, degree) / norms))
    coef = in_z(np.polynomial.Polynomial([-mean / std, 1.0 / std])).coef
    poly = Poly("power", tuple(float(c) for c in coef), interval)
    certificate = certify(goal, poly, interval, density=Density.normal(mean, std), held_out=held_out)
    return Fit(goal.name, poly, "hermite", certificate)


def fold_aespa(
    gamma: ArrayLike, beta: ArrayLike, means: ArrayLike, variances: ArrayLike, epsilon: float = 1e-5
) -> FloatArray:
    """Quadratic coefficients (w0, w1, w2) of a trained AESPA activation, per channel.

    The activation is ``gamma * sum_k f_k (h_k(x) - means[k]) / sqrt(variances[k] + epsilon) + beta``
    over k = 0, 1, 2, with f the Hermite coefficients of ReLU.

    Args:
        gamma: (channels,) or scalar.
        beta: likewise.
        means: (3, channels), running means of h_0, h_1, h_2.
        variances: (3, channels), their running variances.
        epsilon: as in BatchNorm.

    Returns:
        (3, channels), lowest degree first.

    Raises:
        ApproximationError: ``means`` or ``variances`` do not have three rows, or a variance is negative.
    """
    m, v = np.asarray(means, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if m.shape[:1] != (3,) or v.shape[:1] != (3,):
        raise ApproximationError(f"means and variances need three rows, one per basis, found {m.shape} and {v.shape}")
    if (v < 0.0).any():
        raise ApproximationError("a variance is negative")
    weight = np.array([1.0 / math.sqrt(2.0 * math.pi), 0.5, 1.0 / math.sqrt(4.0 * math.pi)])
    f = weight.reshape(-1, *[1] * (v.ndim - 1)) * np.asarray(gamma, dtype=np.float64) / np.sqrt(v + epsilon)
    w2 = f[2] / math.sqrt(2.0)
    w0 = np.asarray(beta, dtype=np.float64) + f[0] * (1.0 - m[0]) - f[1] * m[1] - f[2] * (m[2] + 1.0 / math.sqrt(2.0))
    return np.stack([w0, f[1] * np.ones_like(w2), w2])
