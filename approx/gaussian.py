"""Closed-form least squares under Gaussian inputs: distribution-aware polynomials (DaPa).

AutoReP (Peng et al., ICCV 2023), section 3.3: the polynomial of degree 1 to 4 that minimizes
E[(ReLU(x) - g(x))^2] for x ~ N(mean, std^2), per tensor or per channel. Written here for any
degree: with x = mean + std z and t = mean / std the Hermite coefficients of ReLU are
std (phi(t) + t Phi(t)), std Phi(t), and std phi(t) (-1)^k He_{k-2}(t) for k >= 2.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.polynomial import hermite_e
from numpy.typing import ArrayLike
from scipy import special

from pi_compiler.approx.certificate import certify
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, DegreeError, DensityError
from pi_compiler.approx.poly import Fit, FloatArray, Poly
from pi_compiler.approx.targets import Target, target

__all__ = ["dapa", "dapa_fit", "dapa_loss"]

Mode = Literal["paper", "as_released"]
_RELEASED_VARIANCE_FLOOR = 0.5
_MAX_DEGREE = 12


def _moments(mean: ArrayLike, std: ArrayLike, degree: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Broadcast mean and deviation, and E[ReLU(x) He_k(z)] for k = 0 .. degree (first axis)."""
    if not 0 <= degree <= _MAX_DEGREE:
        raise DegreeError(f"the closed form is for degrees 0 to {_MAX_DEGREE}, found {degree}")
    u, s = np.broadcast_arrays(np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64))
    if not (np.isfinite(u).all() and np.isfinite(s).all() and (s > 0.0).all()):
        raise DensityError("Gaussian inputs need finite means and positive finite deviations")
    t = u / s
    density = np.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi)
    moment = [s * (density + t * special.ndtr(t)), s * special.ndtr(t)]
    for k in range(2, degree + 1):
        moment.append((-1) ** k * s * density * hermite_e.hermeval(t, [0.0] * (k - 2) + [1.0]))
    return u, s, np.stack(moment[: degree + 1])


def dapa(
    mean: ArrayLike, std: ArrayLike, degree: int = 2, *, mode: Mode = "paper", scale_x2: float = 0.1
) -> FloatArray:
    """Power-basis coefficients of the best polynomial for ReLU under N(mean, std^2).

    Args:
        mean: of the inputs; a scalar, or one per channel.
        std: their standard deviation (not the variance), likewise.
        degree: 0 to 12; the paper has 1 to 4.
        mode: "paper" is the optimum. "as_released" is what AutoReP's published code starts its
            training from: the variance, at least 0.5, takes the place of the deviation; c0 is
            divided by 5, c2 by 10 and multiplied by ``scale_x2``.
        scale_x2: see above; 0.1 in its CIFAR script, 2 in its Tiny-ImageNet script.

    Returns:
        (degree + 1, *channels), lowest degree first.

    Raises:
        DegreeError: degree outside 0 to 12.
        DensityError: a deviation that is not positive, or a value that is not finite.
    """
    if mode not in ("paper", "as_released"):
        raise ApproximationError(f"no mode {mode!r}; known: paper, as_released")
    if mode == "as_released":
        std = np.maximum(np.square(np.asarray(std, dtype=np.float64)), _RELEASED_VARIANCE_FLOOR)
    u, s, moment = _moments(mean, std, degree)
    in_z = np.zeros_like(moment)
    for k in range(degree + 1):
        powers = hermite_e.herme2poly([0.0] * k + [1.0]) / math.factorial(k)
        in_z[: k + 1] += powers.reshape(-1, *[1] * u.ndim) * moment[k]
    coef = np.zeros_like(moment)
    for k in range(degree + 1):
        for i in range(k + 1):
            coef[i] += in_z[k] * math.comb(k, i) * (-u) ** (k - i) / s**k
    if mode == "as_released":
        coef[0] /= 5.0
        if degree >= 2:
            coef[2] *= scale_x2 / 10.0
    return coef


def dapa_loss(mean: ArrayLike, std: ArrayLike, degree: int = 2) -> FloatArray:
    """Mean square error that ``dapa`` (paper) leaves under N(mean, std^2)."""
    u, s, moment = _moments(mean, std, degree)
    t = u / s
    density = np.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi)
    square = s * s * ((1.0 + t * t) * special.ndtr(t) + t * density)
    spent = sum(moment[k] ** 2 / math.factorial(k) for k in range(degree + 1))
    return np.asarray(np.maximum(square - spent, 0.0), dtype=np.float64)


def dapa_fit(
    mean: float,
    std: float,
    degree: int = 2,
    *,
    mode: Mode = "paper",
    scale_x2: float = 0.1,
    domain: tuple[float, float] | None = None,
    held_out: ArrayLike | None = None,
    goal: Target | None = None,
) -> Fit:
    """``dapa`` for one tensor or channel, with its certificate on a domain.

    Args:
        mean: of the inputs.
        std: their standard deviation.
        degree: see ``dapa``.
        mode: see ``dapa``.
        scale_x2: see ``dapa``.
        domain: interval to certify; default four deviations around the mean.
        held_out: values for the certificate's exceedance.
        goal: relu (the default), leaky_relu or prelu, which are ReLU plus a line.

    Raises:
        ApproximationError: any other goal; see also ``dapa``.
    """
    goal = target("relu") if goal is None else goal
    if goal.name not in ("relu", "leaky_relu", "prelu"):
        raise ApproximationError(f"the closed form is for relu, leaky_relu and prelu, not {goal.name}")
    slope = 0.0 if goal.name == "relu" else next(iter(goal.params.values()))
    coef = (1.0 - slope) * dapa(mean, std, degree, mode=mode, scale_x2=scale_x2)
    if degree >= 1:
        coef[1] += slope
    else:
        coef[0] += slope * mean
    interval = goal.check((mean - 4.0 * std, mean + 4.0 * std) if domain is None else domain)
    poly = Poly("power", tuple(float(c) for c in coef), interval)
    certificate = certify(goal, poly, interval, density=Density.normal(mean, std), held_out=held_out)
    return Fit(goal.name, poly, f"dapa_{mode}", certificate)
