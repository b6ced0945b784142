"""Power-Softmax as algebra: attention weights without exponential and maximum.

Zimerman et al. (AISTATS 2026, arXiv 2410.09457): weights x^p / (sum x^p + eps) for even p. Three
forms belong together: the Lipschitz form (eq. 2) with an eps large enough that 1/x stays tame;
the stable form for training, which divides x by its largest absolute value first; and the form
for inference that divides by the mean instead of the sum, so that the denominator's interval does
not depend on the length; the public factor 1/L then belongs to the values. Masks multiply.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.approx.certificate import exceedance
from pi_compiler.approx.cost import evaluation_cost
from pi_compiler.approx.errors import ApproximationError, DomainError
from pi_compiler.approx.newton import reciprocal
from pi_compiler.approx.poly import Domain, Fit, FloatArray, check_domain

__all__ = ["PowerSoftmax", "calibrated", "denominators", "length_agnostic", "power_softmax", "stable"]


def _powered(x: ArrayLike, p: int, mask: ArrayLike | None) -> FloatArray:
    if p < 2 or p % 2:
        raise ApproximationError(f"the power must be even and positive, found {p}")
    values = np.asarray(x, dtype=np.float64)
    powered = values**p
    return powered if mask is None else powered * np.asarray(mask, dtype=np.float64)


def _offset(eps: float) -> float:
    if not (math.isfinite(eps) and eps >= 0.0):
        raise ApproximationError(f"eps must be finite and not negative, found {eps}")
    return eps


def power_softmax(x: ArrayLike, p: int = 4, *, eps: float = 1e-3, mask: ArrayLike | None = None) -> FloatArray:
    """``x^p / (sum x^p + eps)`` over the last axis.

    Args:
        x: scores, (..., L).
        p: even power; 4 to 8 train well.
        eps: keeps the division away from 0.
        mask: multiplies x^p (0 hides); broadcasts.

    Raises:
        ApproximationError: an odd or negative power, or a negative eps.
    """
    powered = _powered(x, p, mask)
    return np.asarray(powered / (powered.sum(axis=-1, keepdims=True) + _offset(eps)))


def stable(
    x: ArrayLike, p: int = 4, *, eps: float = 1e-3, delta: float = 1e-3, mask: ArrayLike | None = None
) -> FloatArray:
    """The form to train with: ``power_softmax(x / c)`` with c = max \\|x\\| + delta over the last axis.

    Without eps it equals ``power_softmax``: the weights do not change when all scores are scaled.
    """  # noqa: D301
    values = np.asarray(x, dtype=np.float64)
    seen = np.abs(values) if mask is None else np.abs(values) * (np.asarray(mask, dtype=np.float64) != 0.0)
    return power_softmax(values / (seen.max(axis=-1, keepdims=True) + delta), p, eps=eps, mask=mask)


def denominators(
    x: ArrayLike, p: int = 4, *, eps: float = 1e-3, mask: ArrayLike | None = None, mean: bool = True
) -> FloatArray:
    """What is divided by, one value per row: mean (or sum) of x^p plus eps."""
    powered = _powered(x, p, mask)
    total = powered.mean(axis=-1) if mean else powered.sum(axis=-1)
    return np.asarray(total + _offset(eps))


def length_agnostic(x: ArrayLike, p: int = 4, *, eps: float = 1e-3, mask: ArrayLike | None = None) -> FloatArray:
    """``x^p / (mean x^p + eps)``: L times the weights of ``power_softmax`` with L times this eps."""
    return np.asarray(_powered(x, p, mask) / denominators(x, p, eps=eps, mask=mask)[..., None])


@dataclass(frozen=True, slots=True)
class PowerSoftmax:
    """The inference form with its division replaced.

    Attributes:
        p: even power.
        eps: added to the mean.
        reciprocal: replacement of 1/x on the calibrated interval of the denominator.
        exceedance: fraction of held-out denominators outside that interval, NaN if unknown.
        exceedance_bound: its upper 95 % confidence bound, NaN if unknown.
    """

    p: int
    eps: float
    reciprocal: Fit
    exceedance: float
    exceedance_bound: float

    @property
    def domain(self) -> Domain:
        """Interval of the denominator."""
        return self.reciprocal.certificate.domain

    @property
    def depth(self) -> int:
        """Levels: the power, the reciprocal, and the product of both."""
        return (self.p - 1).bit_length() + self.reciprocal.certificate.depth + 1

    @property
    def products(self) -> tuple[int, int]:
        """Ciphertext products per score and per row."""
        squarings = (self.p.bit_length() - 1) + (self.p.bit_count() - 1)
        return squarings + 1, evaluation_cost(self.reciprocal.approx).products

    def __call__(self, x: ArrayLike, mask: ArrayLike | None = None) -> FloatArray:
        """Attention weights (they sum to about 1) of scores (..., L)."""
        values = np.asarray(x, dtype=np.float64)
        powered = _powered(values, self.p, mask)
        below = denominators(values, self.p, eps=self.eps, mask=mask)
        return np.asarray(powered * self.reciprocal.approx(below)[..., None] / values.shape[-1])

    def weight_error(self) -> float:
        """Largest error of a row's total weight while the denominator stays in its interval."""
        return self.reciprocal.certificate.max_error * self.domain[1]


def calibrated(
    x: ArrayLike,
    p: int = 4,
    *,
    eps: float = 1e-3,
    mask: ArrayLike | None = None,
    margin: float = 1.5,
    tolerance: float = 1e-3,
    held_out: ArrayLike | None = None,
) -> PowerSoftmax:
    """A ``PowerSoftmax`` whose division is certified on the interval that calibration scores give.

    Args:
        x: calibration scores, (..., L).
        p: even power.
        eps: added to the mean; also the least value that the interval starts from.
        mask: multiplies x^p.
        margin: the interval is widened by this factor at both ends, never below eps.
        tolerance: largest error of a row's total weight.
        held_out: further scores, for the exceedance of the interval.

    Raises:
        ApproximationError: no scores, an odd power, or a margin below 1.
        DomainError: scores that are not finite, or an interval that reaches 0.
    """
    if margin < 1.0:
        raise ApproximationError(f"the margin must be at least 1, found {margin}")
    values = denominators(x, p, eps=eps, mask=mask)
    if values.size == 0:
        raise ApproximationError("calibration needs at least one row of scores, found none")
    if not np.isfinite(values).all():
        raise DomainError("calibration scores are not finite, or overflow when raised to the power")
    low, high = max(float(values.min()) / margin, eps), float(values.max()) * margin
    if not low > 0.0:
        raise DomainError("a row of zero scores needs eps above 0")
    domain = check_domain((low, high))
    fit = reciprocal(domain, tolerance=tolerance / high)
    outside = (math.nan, math.nan)
    if held_out is not None:
        outside = exceedance(denominators(held_out, p, eps=eps, mask=mask), domain)
    return PowerSoftmax(p, eps, fit, *outside)
