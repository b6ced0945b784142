"""Degree two at one level: the completed square.

    w2 x^2 + w1 x + w0 = s (a x + b)^2 + c,   s = sign(w2), a = sqrt|w2|, b = s w1 / (2 a), c = w0 - w1^2 / (4 w2)

The map a x + b folds into the linear layer before and s, c into the one after, so that only the
square itself is left for the ciphertexts: one product, one level, no plain product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.poly import FloatArray

__all__ = ["CompletedSquare", "complete_square"]


@dataclass(frozen=True, slots=True, eq=False)
class CompletedSquare:
    """``sign * z * z + constant`` with ``z = scale * x + shift``, per channel.

    Where ``square`` is false there is no quadratic term: z is the value itself
    (sign 1, constant 0), and whoever evaluates must not square it.

    Attributes:
        scale: factor of x, folded into the layer before.
        shift: added to it, likewise.
        sign: +1 or -1, folded into the layer after.
        constant: added to it, likewise.
        square: whether z gets squared.
    """

    scale: FloatArray
    shift: FloatArray
    sign: FloatArray
    constant: FloatArray
    square: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

    def __call__(self, x: ArrayLike) -> FloatArray:
        """Values at x; channels broadcast against its last axes."""
        z = self.scale * np.asarray(x, dtype=np.float64) + self.shift
        return np.asarray(np.where(self.square, self.sign * z * z + self.constant, z))


def complete_square(w0: ArrayLike, w1: ArrayLike, w2: ArrayLike, *, reach: float = 1e6) -> CompletedSquare:
    """The completed square of ``w2 x^2 + w1 x + w0``, elementwise.

    Args:
        w0: constant terms.
        w1: linear coefficients.
        w2: quadratic coefficients. Where w2 is zero the result is the line itself.
        reach: where the vertex lies farther than this from 0, the quadratic term is nothing
            against the linear one but its square would cancel badly: the line is returned.

    Raises:
        ApproximationError: a coefficient is not finite.
    """
    c0, c1, c2 = np.broadcast_arrays(*(np.asarray(w, dtype=np.float64) for w in (w0, w1, w2)))
    if not (np.isfinite(c0).all() and np.isfinite(c1).all() and np.isfinite(c2).all()):
        raise ApproximationError("cannot complete the square: a coefficient is not finite")
    square = (c2 != 0.0) & (np.abs(c1) <= 2.0 * reach * np.abs(c2))
    safe = np.where(square, c2, 1.0)
    sign = np.where(square, np.sign(safe), 1.0)
    root = np.sqrt(np.abs(safe))
    scale = np.where(square, root, c1)
    shift = np.where(square, sign * c1 / (2.0 * root), c0)
    constant = np.where(square, c0 - c1 * c1 / (4.0 * safe), 0.0)
    return CompletedSquare(scale, shift, sign, constant, square)
