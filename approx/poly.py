"""Polynomials and what is known about a fit: the vocabulary of this package.

Coefficients are lowest degree first. A domain is a closed interval; a Chebyshev-basis polynomial
is a series in T_k of the argument mapped from the domain to [-1, 1] (numpy's convention).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from numpy.polynomial import chebyshev as _cheb
from numpy.polynomial import polynomial as _power
from numpy.typing import ArrayLike, NDArray

from pi_compiler.approx.errors import DegreeError, DomainError

Basis: TypeAlias = Literal["power", "chebyshev"]
Domain: TypeAlias = tuple[float, float]
FloatArray: TypeAlias = NDArray[np.float64]


def check_domain(domain: tuple[float, float]) -> Domain:
    """The interval as two floats.

    Raises:
        DomainError: a bound is NaN or infinite, or the interval is empty or reversed.
    """
    low, high = float(domain[0]), float(domain[1])
    if math.isnan(low) or math.isnan(high):
        raise DomainError(f"interval [{low}, {high}] has a bound that is not a number")
    if math.isinf(low) or math.isinf(high):
        raise DomainError(f"interval [{low}, {high}] is not finite")
    if low > high:
        raise DomainError(f"interval [{low:g}, {high:g}] is reversed")
    if not high - low > 1e-12 * max(abs(low), abs(high)):
        raise DomainError(f"interval [{low!r}, {high!r}] is empty or a single point")
    return low, high


def check_degree(degree: int, parity: str | None = None, *, largest: int = 1023) -> int:
    """The degree, if a polynomial of that parity can have it.

    Raises:
        DegreeError: negative, above ``largest``, or 0 for an odd polynomial.
    """
    if degree < 0:
        raise DegreeError(f"degree {degree} is negative")
    if degree > largest:
        raise DegreeError(f"degree {degree} is above the largest supported, {largest}")
    if parity == "odd" and degree < 1:
        raise DegreeError(f"degree {degree} leaves an odd polynomial no coefficient; the least is 1")
    return int(degree)


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
    domain: Domain

    @property
    def degree(self) -> int:
        """Degree, trailing zeros not counted."""
        nonzero = [i for i, c in enumerate(self.coef) if c != 0.0]
        return nonzero[-1] if nonzero else 0

    def mapped(self, x: ArrayLike) -> FloatArray:
        """The argument of the series: x itself, or x mapped from the domain to [-1, 1]."""
        x = np.asarray(x, dtype=np.float64)
        if self.basis == "power":
            return x
        low, high = self.domain
        return np.asarray((2.0 * x - low - high) / (high - low))

    def __call__(self, x: ArrayLike) -> FloatArray:
        """Values at x, any shape."""
        value = _power.polyval if self.basis == "power" else _cheb.chebval
        return np.asarray(value(self.mapped(x), self.coef))

    def to(self, basis: Basis) -> Poly:
        """The same polynomial in another basis, on the same domain."""
        if basis == self.basis:
            return self
        if basis == "power":
            coef = Chebyshev(self.coef, domain=self.domain).convert(kind=Polynomial).coef
        else:
            coef = Polynomial(self.coef).convert(kind=Chebyshev, domain=self.domain).coef
        return Poly(basis, tuple(float(c) for c in coef), self.domain)

    def derivative(self) -> Poly:
        """The derivative with respect to x."""
        if self.basis == "power":
            return Poly("power", tuple(float(c) for c in _power.polyder(self.coef)), self.domain)
        slope = 2.0 / (self.domain[1] - self.domain[0])
        return Poly("chebyshev", tuple(float(c) for c in _cheb.chebder(self.coef, scl=slope)), self.domain)

    def affine(self, scale: float, shift: float) -> Poly:
        """``scale * self + shift``."""
        coef = [scale * c for c in self.coef]
        coef[0] += shift
        return Poly(self.basis, tuple(coef), self.domain)


@dataclass(frozen=True, slots=True)
class Composite:
    """Polynomials applied one after the other, first stage first."""

    stages: tuple[Poly, ...]

    @property
    def domain(self) -> Domain:
        """The domain of the first stage."""
        return self.stages[0].domain

    def __call__(self, x: ArrayLike) -> FloatArray:
        """Values at x, any shape."""
        y = np.asarray(x, dtype=np.float64)
        for stage in self.stages:
            y = stage(y)
        return y


@dataclass(frozen=True, slots=True)
class Apply:
    """A step of a formula: a polynomial of an earlier value."""

    poly: Poly
    arg: int


@dataclass(frozen=True, slots=True)
class Times:
    """A step of a formula: the product of two earlier values; of one with itself, its square."""

    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Sum:
    """A step of a formula: ``constant + sum(c * value for c, value in terms)``.

    Whole factors are free on ciphertexts; others take a plain product and a level.
    """

    terms: tuple[tuple[float, int], ...]
    constant: float = 0.0


@dataclass(frozen=True, slots=True)
class Formula:
    """Steps that compute a function of x: iterations, gates, anything that is no bare polynomial.

    Value 0 is x; step i makes value i + 1; the last value is the result.
    """

    steps: tuple[Apply | Times | Sum, ...]
    domain: Domain

    def __call__(self, x: ArrayLike) -> FloatArray:
        """Values at x, any shape."""
        values = [np.asarray(x, dtype=np.float64)]
        for step in self.steps:
            match step:
                case Apply(poly, arg):
                    values.append(poly(values[arg]))
                case Times(left, right):
                    values.append(values[left] * values[right])
                case Sum(terms, constant):
                    total = np.full_like(values[0], constant)
                    for c, i in terms:
                        total = total + c * values[i]
                    values.append(total)
        return values[-1]


@dataclass(frozen=True, slots=True)
class Piecewise:
    """Different polynomials on different intervals, for protocols that can compare.

    Attributes:
        breaks: ascending; piece i holds from break i-1 (inclusive) to break i (exclusive), the
            first and the last one without end.
        pieces: one more than breaks.
        domain: the closed interval on which it is meant to be used.
        fold: evaluate at |x| and add ``slope * x``: for x/2 plus an even function.
        slope: see ``fold``.
    """

    breaks: tuple[float, ...]
    pieces: tuple[Poly | Composite, ...]
    domain: Domain
    fold: bool = False
    slope: float = 0.0

    def __call__(self, x: ArrayLike) -> FloatArray:
        """Values at x, any shape."""
        x = np.asarray(x, dtype=np.float64)
        argument = np.abs(x) if self.fold else x
        which = np.searchsorted(self.breaks, argument, side="right")
        result = self.slope * x
        for i, piece in enumerate(self.pieces):
            inside = which == i
            result[inside] += piece(argument[inside])
        return result


@dataclass(frozen=True, slots=True)
class Rational:
    """``numerator / denominator``, for protocols that can divide.

    The denominator is certified to stay above zero on the domain.
    """

    numerator: Poly
    denominator: Poly

    @property
    def domain(self) -> Domain:
        """The domain of the numerator."""
        return self.numerator.domain

    def __call__(self, x: ArrayLike) -> FloatArray:
        """Values at x, any shape."""
        return np.asarray(self.numerator(x) / self.denominator(x))


Approximant: TypeAlias = Poly | Composite | Formula | Piecewise | Rational


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
        comparisons: secure comparisons (piecewise fits, under MPC only).
        divisions: secure divisions (rational fits, under MPC only).
    """

    domain: Domain
    max_error: float
    at: float
    weighted_error: float
    exceedance: float
    exceedance_bound: float
    growth: float
    depth: int
    products: int
    plain_products: int
    comparisons: int = 0
    divisions: int = 0


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
    approx: Approximant
    method: str
    certificate: Certificate
    converged: bool = True
    message: str = ""
    notes: tuple[str, ...] = field(default=())
