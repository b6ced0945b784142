"""Polynomials and what is known about a fit: the vocabulary of this package.

Coefficients are lowest degree first. A domain is a closed interval; a Chebyshev-basis polynomial
is a series in T_k of the argument mapped from the domain to [-1, 1] (numpy's convention).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.polynomial import chebyshev as _cheb
from numpy.polynomial import polynomial as _power
from numpy.typing import ArrayLike, NDArray

Basis: TypeAlias = Literal["power", "chebyshev"]
FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Poly:
    """One polynomial.

    Attributes:
        basis: ``"power"`` (in x itself) or ``"chebyshev"`` (in x mapped from ``domain``).
        coef: coefficients, lowest degree first.
        domain: the closed interval on which it is meant to be used.
    """

    basis: Basis
    coef: tuple[float, ...]
    domain: tuple[float, float]

    @property
    def degree(self) -> int:
        """Degree, trailing zeros not counted."""
        nonzero = [i for i, c in enumerate(self.coef) if c != 0.0]
        return nonzero[-1] if nonzero else 0

    def __call__(self, x: ArrayLike) -> FloatArray:
        """Values at x, any shape."""
        x = np.asarray(x, dtype=np.float64)
        if self.basis == "power":
            return np.asarray(_power.polyval(x, self.coef))
        low, high = self.domain
        return np.asarray(_cheb.chebval((2.0 * x - low - high) / (high - low), self.coef))


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is known about a fit, beyond its coefficients. Errors are absolute.

    Attributes:
        domain: the certified interval.
        max_error: largest error on the domain, an upper bound.
        at: where that error is reached.
        weighted_error: root mean square error under the calibration density, NaN if none was given.
        exceedance: fraction of held-out calibration values outside the domain, NaN if unknown.
        exceedance_bound: upper 95 % confidence bound of that fraction, NaN if unknown.
        growth: largest absolute value of the fit at 1.5 times the half width around the centre.
        depth: levels that its evaluation takes.
        products: ciphertext-ciphertext products.
        plain_products: ciphertext-plaintext products.
    """

    domain: tuple[float, float]
    max_error: float
    at: float
    weighted_error: float
    exceedance: float
    exceedance_bound: float
    growth: float
    depth: int
    products: int
    plain_products: int


@dataclass(frozen=True, slots=True)
class Composite:
    """Polynomials applied one after the other, first stage first."""

    stages: tuple[Poly, ...]

    @property
    def domain(self) -> tuple[float, float]:
        """The domain of the first stage."""
        return self.stages[0].domain

    def __call__(self, x: ArrayLike) -> FloatArray:
        """Values at x, any shape."""
        y = np.asarray(x, dtype=np.float64)
        for stage in self.stages:
            y = stage(y)
        return y


@dataclass(frozen=True, slots=True)
class Fit:
    """A replacement for a function and its certificate.

    Attributes:
        target: name of the replaced function.
        approx: what replaces it.
        method: how it was found.
        certificate: see ``Certificate``.
        converged: false if the method did not reach what was asked; ``message`` says why.
        message: for people.
    """

    target: str
    approx: Poly | Composite
    method: str
    certificate: Certificate
    converged: bool = True
    message: str = ""
    notes: tuple[str, ...] = field(default=())
