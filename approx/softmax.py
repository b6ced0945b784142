"""Softmax replacements to compare with: what each computes, in numpy, and the levels it takes.

Squaring and Goldschmidt (Lee et al., 2022); normalize and square (Cho et al., CCS 2024; THOR,
Moon et al., 2024); CGF-softmax, which replaces the sum of exponentials by the cumulant generating
function of a Gaussian (HEIR); 2Quad and 2ReLU (MPCFormer, Li et al., ICLR 2023); attention by ReLU
or sigmoid with the length in the scale (Wortsman et al., 2023; Ramapuram et al., 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.approx import exponential, newton
from pi_compiler.approx.errors import ApproximationError, DomainError
from pi_compiler.approx.poly import Fit, FloatArray, check_domain

__all__ = [
    "SoftmaxReplacement",
    "cgf",
    "exact",
    "normalize_and_square",
    "relu_attention",
    "sigmoid_attention",
    "squaring_goldschmidt",
    "two_quad",
    "two_relu",
]


@dataclass(frozen=True, slots=True)
class SoftmaxReplacement:
    """Attention weights over the last axis, and what they cost.

    Attributes:
        name: for tables.
        function: (scores (..., L), mask or None) -> weights (..., L).
        depth: levels.
        fits: the replacements inside, for their certificates.
    """

    name: str
    function: Callable[[FloatArray, FloatArray | None], FloatArray]
    depth: int
    fits: tuple[Fit, ...] = ()

    def __call__(self, x: ArrayLike, mask: ArrayLike | None = None) -> FloatArray:
        """Weights of scores (..., L); a mask multiplies, 0 hides."""
        hidden = None if mask is None else np.asarray(mask, dtype=np.float64)
        return self.function(np.asarray(x, dtype=np.float64), hidden)


def _masked(values: FloatArray, mask: FloatArray | None) -> FloatArray:
    return values if mask is None else values * mask


def exact(x: ArrayLike, mask: ArrayLike | None = None) -> FloatArray:
    """Softmax itself; a mask of 0 hides."""
    values = np.asarray(x, dtype=np.float64)
    e = np.exp(values - values.max(axis=-1, keepdims=True))
    e = _masked(e, None if mask is None else np.asarray(mask, dtype=np.float64))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def squaring_goldschmidt(domain: tuple[float, float], length: int, *, tolerance: float = 1e-3) -> SoftmaxReplacement:
    """Exp by scaling and squaring on the score interval, divided by its sum with Goldschmidt.

    Args:
        domain: interval of the scores; its upper end is subtracted first, which is free.
        length: number of scores per row.
        tolerance: error of exp, and relative error of the division.

    Raises:
        DomainError: a malformed interval.
        PrecisionError: a tolerance that cannot be reached.
        ApproximationError: a length below 1.
    """
    low, high = check_domain(domain)
    _check_length(length)
    e = exponential.smallest((low - high, 0.0), tolerance)
    least = max(length * math.exp(low - high) - length * tolerance, 0.5 * math.exp(low - high))
    inverse = newton.reciprocal((least, length * (1.0 + tolerance)), tolerance=tolerance / least)

    def weights(x: FloatArray, mask: FloatArray | None) -> FloatArray:
        powered = _masked(e.approx(x - high), mask)
        return np.asarray(powered * inverse.approx(powered.sum(axis=-1, keepdims=True)))

    depth = e.certificate.depth + inverse.certificate.depth + 1
    return SoftmaxReplacement("squaring and Goldschmidt", weights, depth, (e, inverse))


def normalize_and_square(
    domain: tuple[float, float], length: int, *, rounds: int | None = None, tolerance: float = 1e-3
) -> SoftmaxReplacement:
    """Softmax of the scores divided by 2^rounds, then as often squared and normalized again.

    softmax(2 x) is softmax(x)^2, normalized; so exp only sees a narrow interval, and every
    division one that is known: a sum of squares of L weights that sum to 1 is at least 1 / L.

    Args:
        domain: interval of the scores.
        length: number of scores per row.
        rounds: how often to square; default as many as bring exp's interval down to 8.
        tolerance: error of exp, and relative error of each division.

    Raises:
        DomainError: a malformed interval.
        ApproximationError: a length below 1, or a negative number of rounds.
    """
    low, high = check_domain(domain)
    _check_length(length)
    count = max(0, math.ceil(math.log2((high - low) / 8.0))) if rounds is None else rounds
    if count < 0:
        raise ApproximationError(f"the number of rounds must not be negative, found {rounds}")
    width = (high - low) / 2.0**count
    e = exponential.smallest((-width, 0.0), min(tolerance, 0.1 * math.exp(-width)))
    first = newton.reciprocal(
        (0.5 * length * math.exp(-width), length * (1.0 + tolerance)), tolerance=tolerance / length
    )
    slack = (1.0 + 2.0 * tolerance) ** 2
    again = newton.reciprocal((1.0 / (slack * length), slack), tolerance=tolerance)

    def weights(x: FloatArray, mask: FloatArray | None) -> FloatArray:
        powered = _masked(e.approx((x - high) / 2.0**count), mask)
        w = powered * first.approx(powered.sum(axis=-1, keepdims=True))
        for _ in range(count):
            square = w * w
            w = square * again.approx(square.sum(axis=-1, keepdims=True))
        return np.asarray(w)

    depth = e.certificate.depth + first.certificate.depth + 1 + count * (again.certificate.depth + 2)
    return SoftmaxReplacement("normalize and square", weights, depth, (e, first, again))


def cgf(domain: tuple[float, float], *, tolerance: float = 1e-3) -> SoftmaxReplacement:
    """``exp(x - (mean + variance / 2 + log L))``: no division, right when scores are Gaussian.

    Args:
        domain: interval of ``x - mean - variance / 2 - log L``.
        tolerance: error of exp there.
    """
    e = exponential.smallest(check_domain(domain), tolerance)

    def weights(x: FloatArray, mask: FloatArray | None) -> FloatArray:
        kept = np.ones_like(x) if mask is None else np.broadcast_to(mask, x.shape)
        count = kept.sum(axis=-1, keepdims=True)
        mean = (x * kept).sum(axis=-1, keepdims=True) / count
        variance = ((x - mean) ** 2 * kept).sum(axis=-1, keepdims=True) / count
        return np.asarray(e.approx(x - mean - 0.5 * variance - np.log(count)) * kept)

    return SoftmaxReplacement("CGF", weights, e.certificate.depth + 2, (e,))


def two_quad(
    domain: tuple[float, float], length: int, *, shift: float = 5.0, tolerance: float = 1e-3
) -> SoftmaxReplacement:
    """MPCFormer's 2Quad: ``(x + c)^2 / sum (x + c)^2``, to be trained in.

    Args:
        domain: interval of the scores.
        length: number of scores per row.
        shift: c; the scores should stay above -c.
        tolerance: relative error of the division.

    Raises:
        DomainError: scores that reach -c, so that the sum may reach 0.
    """
    low, high = check_domain(domain)
    _check_length(length)
    if low <= -shift:
        raise DomainError(f"2Quad with shift {shift:g} needs scores above {-shift:g}, the interval starts at {low:g}")
    least, most = low + shift, high + shift
    inverse = newton.reciprocal((length * least**2, length * most**2), tolerance=tolerance / (length * most**2))

    def weights(x: FloatArray, mask: FloatArray | None) -> FloatArray:
        square = _masked((x + shift) ** 2, mask)
        return np.asarray(square * inverse.approx(square.sum(axis=-1, keepdims=True)))

    return SoftmaxReplacement("2Quad", weights, 2 + inverse.certificate.depth, (inverse,))


def two_relu(relu: Fit, length: int, *, eps: float = 1e-3, tolerance: float = 1e-3) -> SoftmaxReplacement:
    """MPCFormer's 2ReLU: ``(relu(x) + eps / L) / (sum relu(x) + eps)``.

    Args:
        relu: replacement of ReLU on the interval of the scores.
        length: number of scores per row.
        eps: keeps the division away from 0.
        tolerance: relative error of the division.
    """
    _check_length(length)
    most = length * (relu.certificate.domain[1] + relu.certificate.max_error) + eps
    least = eps - length * relu.certificate.max_error
    if not least > 0.0:
        raise ApproximationError(
            f"eps {eps:g} is below {length} times the error {relu.certificate.max_error:.2g} of ReLU: "
            "the sum may reach 0"
        )
    inverse = newton.reciprocal((least, most), tolerance=tolerance / most)

    def weights(x: FloatArray, mask: FloatArray | None) -> FloatArray:
        above = _masked(relu.approx(x) + eps / length, mask)
        return np.asarray(above * inverse.approx(above.sum(axis=-1, keepdims=True)))

    return SoftmaxReplacement("2ReLU", weights, relu.certificate.depth + inverse.certificate.depth + 1, (relu, inverse))


def relu_attention(relu: Fit, length: int) -> SoftmaxReplacement:
    """``relu(x) / L``: no division by anything secret."""
    _check_length(length)
    return SoftmaxReplacement(
        "ReLU attention", lambda x, mask: _masked(relu.approx(x) / length, mask), relu.certificate.depth, (relu,)
    )


def sigmoid_attention(gate: Fit, length: int) -> SoftmaxReplacement:
    """``sigmoid(x - log L)``: no division.

    Args:
        gate: replacement of the sigmoid on the interval of ``x - log L``.
        length: number of scores per row.
    """
    _check_length(length)
    bias = math.log(length)
    return SoftmaxReplacement(
        "sigmoid attention", lambda x, mask: _masked(gate.approx(x - bias), mask), gate.certificate.depth, (gate,)
    )


def _check_length(length: int) -> None:
    if length < 1:
        raise ApproximationError(f"a row needs at least one score, found length {length}")
