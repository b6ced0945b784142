"""The books that CKKS keeps: which operands an instruction takes, and the type of its result.

All backends ask here, so that a program that one of them refuses is refused by all of them, in
the same words.
"""

from __future__ import annotations

import math

import numpy as np

from pi_compiler.errors import ExecutionError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import CtType

SCALE_TOLERANCE = 1e-9
"""Largest relative difference between two scales that count as equal: rounding in double."""

_OTHER_KEYS = "keys made for this model"


class Rules:
    """Type rules for one parameter set and one set of keys."""

    __slots__ = ("_primes", "_relinearize", "_rooms", "_rotations", "_slots")

    def __init__(self, params: Params, rotations: frozenset[int], relinearize: bool) -> None:
        self._slots = params.slots
        self._primes = params.primes
        self._rooms = np.cumsum([math.log2(q) for q in params.primes]).tolist()
        self._rotations, self._relinearize = rotations, relinearize

    def values(self, values: FloatArray) -> None:
        """Slot values are finite numbers, and their period divides the slots."""
        period = values.shape[-1] if values.ndim else 0
        if period == 0 or self._slots % period:
            raise ExecutionError(f"a vector of {period} values does not repeat in {self._slots} slots")
        if not np.isfinite(values).all():
            raise ExecutionError("slot values are not finite")

    def room(self, level: int, scale: float) -> None:
        """The level exists, and the scale fits its modulus."""
        if not 0 <= level < len(self._primes):
            raise ExecutionError(f"there is no level {level}: levels go from {len(self._primes) - 1} down to 0")
        if not 0 < scale < math.inf or math.log2(scale) >= self._rooms[level]:
            log = math.log2(scale) if 0 < scale < math.inf else math.inf
            raise ExecutionError(
                f"scale 2^{log:.1f} does not fit the modulus 2^{self._rooms[level]:.1f} of level {level}"
            )

    def add(self, a: CtType, b: CtType) -> CtType:
        """Same level, same scale."""
        if a.level != b.level:
            raise ExecutionError(f"the operands are at different levels: {a.level} and {b.level}")
        _same_scale(a.scale, b.scale)
        return a if a.dimension >= b.dimension else b

    def mul(self, a: CtType, b: CtType) -> CtType:
        """Same level, both of dimension 2."""
        if a.level != b.level:
            raise ExecutionError(f"the factors are at different levels: {a.level} and {b.level}")
        if a.dimension != 2 or b.dimension != 2:
            raise ExecutionError("a factor is not relinearized")
        self.room(a.level, a.scale * b.scale)
        return CtType(a.level, a.scale * b.scale, 3)

    def add_plain(self, a: CtType, level: int, scale: float) -> CtType:
        """The constant is encoded at the ciphertext's level and scale."""
        _same_level(a.level, level)
        _same_scale(a.scale, scale)
        return a

    def mul_plain(self, a: CtType, level: int, scale: float) -> CtType:
        """The constant is encoded at the ciphertext's level."""
        _same_level(a.level, level)
        self.room(level, a.scale * scale)
        return CtType(level, a.scale * scale, a.dimension)

    def rotate(self, a: CtType, by: int) -> int:
        """Dimension 2 and a key; returns the amount in 0 .. slots - 1, where 0 needs no key."""
        step = by % self._slots
        if step == 0:
            return 0
        if a.dimension != 2:
            raise ExecutionError("a ciphertext of dimension 3 cannot be rotated", hint="relinearize first")
        if step not in self._rotations:
            raise ExecutionError(f"there is no key for the rotation by {step}", hint=_OTHER_KEYS)
        return step

    def relinearize(self, a: CtType) -> CtType:
        """Dimension 3 and a key."""
        if a.dimension != 3:
            raise ExecutionError(f"only dimension 3 can be relinearized, this is {a.dimension}")
        if not self._relinearize:
            raise ExecutionError("there is no relinearization key", hint=_OTHER_KEYS)
        return CtType(a.level, a.scale)

    def rescale(self, a: CtType, scale: float) -> CtType:
        """A level is left, and dividing by its prime gives the scale that the program says."""
        if a.level < 1:
            raise ExecutionError("no level is left to rescale")
        exact = a.scale / self._primes[a.level]
        if not abs(exact - scale) <= SCALE_TOLERANCE * exact:
            raise ExecutionError(f"rescaling gives scale {exact!r}, the program says {scale!r}")
        return CtType(a.level - 1, scale, a.dimension)

    def drop_level(self, a: CtType, level: int) -> CtType:
        """Levels only go down, and the scale still fits."""
        if not 0 <= level <= a.level:
            raise ExecutionError(f"cannot go from level {a.level} to level {level}")
        self.room(level, a.scale)
        return CtType(level, a.scale, a.dimension)


def mismatch(found: CtType, needed: CtType) -> str | None:
    """How a ciphertext differs from what a program needs, or None."""
    if found.level != needed.level:
        return f"level {found.level}, needed {needed.level}"
    if found.dimension != needed.dimension:
        return f"dimension {found.dimension}, needed {needed.dimension}"
    if not abs(found.scale - needed.scale) <= SCALE_TOLERANCE * needed.scale:
        return f"scale {found.scale!r}, needed {needed.scale!r}"
    return None


def _same_level(a: int, b: int) -> None:
    if a != b:
        raise ExecutionError(f"the constant is encoded at level {b}, the ciphertext is at level {a}")


def _same_scale(a: float, b: float) -> None:
    if not abs(a - b) <= SCALE_TOLERANCE * a:
        raise ExecutionError(f"the operands have different scales: {a!r} and {b!r}")
