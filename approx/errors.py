"""What this package raises when it is asked for something that no fit can give.

ApproximationError
├─ DomainError      an interval that is empty, reversed, not finite, or holds a pole
├─ DegreeError      a degree that is negative, too large, or below what parity allows
├─ DensityError     a density without mass, or with too few distinct points for the degree
└─ PrecisionError   an error that double precision cannot reach
"""

from __future__ import annotations

__all__ = ["ApproximationError", "DegreeError", "DensityError", "DomainError", "PrecisionError"]


class ApproximationError(ValueError):
    """Base of every error that this package raises on purpose."""


class DomainError(ApproximationError):
    """The interval is empty, reversed, not finite, or the function is not defined on all of it."""


class DegreeError(ApproximationError):
    """The degree is negative, too large, or below what the function's parity allows."""


class DensityError(ApproximationError):
    """The density has no mass on the interval, is malformed, or has too few distinct points."""


class PrecisionError(ApproximationError):
    """The requested error is below what double precision can represent."""
