"""What bootstraps would need of memory: an estimate, for nothing here runs them.

Counted is a bootstrap of all slots as libraries do it (Bossuat et al., EUROCRYPT 2021): the levels that
``refresh.BOOTSTRAP_LEVELS`` reserves are three for CoeffToSlot, three for SlotToCoeff, and the rest for the modular
reduction between them, on real and imaginary parts apart. Each transform of n slots is its log2 n butterflies merged
into three matrices, of k butterflies at a stride s: diagonals at all multiples of s from -(2^k - 1) s to (2^k - 1) s,
evaluated by baby steps and giant steps. A key of the level l takes ``Params.key_bytes(l)``, that is
2 digits(l) (l + 1 + specials) N words of 8 bytes. SlotToCoeff uses CoeffToSlot's keys, which serve lower levels too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pi_compiler.ir import switching
from pi_compiler.ir.params import Params
from pi_compiler.report.memory import Footprint

__all__ = ["Bootstraps", "bootstraps", "fourier"]

_MATRICES = 3
_APART = 2
"""Halves that the modular reduction works on: real and imaginary parts."""
_POWERS = 12
"""Ciphertexts that the modular reduction of one half holds: a polynomial of degree 63 from eight low powers and two
high ones, its operand and its sum."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """One of a transform's matrices.

    Attributes:
        diagonals: how many are not zero.
        rotations: amounts that its baby and giant steps take.
    """

    diagonals: int
    rotations: frozenset[int]


@dataclass(frozen=True, slots=True)
class Bootstraps:
    """Bytes of what bootstraps have of their own; zero where a plan has none.

    Attributes:
        keys: how many switching keys the program has no use for itself.
        key_bytes: of all keys together with these, what the program's alone do not take.
        memory_bytes: keys, the transforms' constants, and what one bootstrap holds on its way.
    """

    keys: int = 0
    key_bytes: int = 0
    memory_bytes: int = 0


def bootstraps(params: Params, footprint: Footprint, rotations: Mapping[int, int], *, relinearize: bool) -> Bootstraps:
    """The estimate for a program that bootstraps.

    Args:
        params: its parameters; bootstraps begin at their highest level.
        footprint: how the backend keeps keys.
        rotations: the program's own: amounts, and the highest level of each.
        relinearize: whether the program has a key for that already.
    """
    top = params.max_level
    matrices = fourier(params.slots)
    levels = {k: top - place for place, matrix in enumerate(matrices) for k in matrix.rotations}
    both = {k: max(levels.get(k, 0), rotations.get(k, 0)) for k in {**rotations, **levels}}
    # Conjugation parts the halves. A sparse secret lasts from level 0 to the raised modulus, which takes a key to it
    # and one back (Bossuat et al., ACNS 2022): the chain's own secret stays as dense as the security table wants it.
    apart = params.key_bytes(top - _MATRICES), params.key_bytes(0), params.key_bytes(top)
    own = footprint.keys(params, rotations, relinearize=relinearize)
    key_bytes = footprint.keys(params, both, relinearize=True) - own + sum(apart)
    constants = sum(
        matrix.diagonals * switching.constant_bytes(params, level, params.slots, late=True)
        for place, matrix in enumerate(matrices)
        for level in (top - place, _MATRICES - place)
    )
    held = _POWERS * _APART * params.ciphertext_bytes(top - _MATRICES)
    keys = len(both) - len(rotations) + (not relinearize) + len(apart)
    return Bootstraps(keys, key_bytes, key_bytes + constants + held)


def fourier(slots: int) -> tuple[Matrix, ...]:
    """The matrices of a transform of so many slots, that of the smallest stride first."""
    log = slots.bit_length() - 1
    found, start = [], 0
    for place in range(_MATRICES):
        end = log * (place + 1) // _MATRICES
        # The ends of the widest matrix meet, as slots are a circle.
        reach, stride = (1 << (end - start)) - 1, 1 << start
        places = {i * stride % slots for i in range(-reach, reach + 1)}
        found.append(Matrix(len(places), min((_steps(reach, stride, slots, g) for g in range(1, reach + 2)), key=len)))
        start = end
    return tuple(found)


def _steps(reach: int, stride: int, slots: int, baby: int) -> frozenset[int]:
    """Rotations by up to ``baby - 1`` strides, and by multiples of ``baby`` strides, that reach every diagonal."""
    parts = [divmod(i, baby) for i in range(-reach, reach + 1)]
    amounts = {low * stride % slots for _, low in parts} | {high * baby * stride % slots for high, _ in parts}
    return frozenset(amounts - {0})
