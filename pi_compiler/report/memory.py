"""Predicted resident memory of a process that makes keys, encrypts, evaluates and decrypts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pi_compiler.ir.params import Params
from pi_compiler.ir.program import Opcode, Program

_INTERPRETER = 104 << 20
"""An interpreter with the runtime and a backend loaded, before any key (measured)."""

_SUMS = 8
"""Sums of giant steps that the native backend holds at a time."""

_KEPT = 3 << 29
"""Free memory that the native backend keeps at most."""


class Keys(Protocol):
    """Bytes of evaluation keys."""

    def __call__(self, params: Params, rotations: Mapping[int, int], *, relinearize: bool) -> int:
        """``rotations``: per amount the highest level at which it is used."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """How a kind of backend uses memory.

    Attributes:
        keys: bytes of keys.
        ciphertexts: most bytes that ciphertexts take, in what the backend's pool makes of them.
        process: everything else but constants.
    """

    keys: Keys
    ciphertexts: Callable[[Program, Params], int]
    process: Callable[[Params], int]


def _full_keys(params: Params, rotations: Mapping[int, int], *, relinearize: bool) -> int:
    return (len(rotations) + relinearize) * params.key_bytes(params.max_level)


def _keys_by_level(params: Params, rotations: Mapping[int, int], *, relinearize: bool) -> int:
    top = params.key_bytes(params.max_level) if relinearize else 0
    return top + sum(params.key_bytes(level) for level in rotations.values())


def _seal_process(params: Params) -> int:
    """SEAL's context keeps transform tables for every prime at every level: 64 N (k + 1) bytes for
    each k up to the number of primes.
    """
    primes = len(params.primes) + len(params.special)
    return _INTERPRETER + (64 << params.log_n) * sum(k + 1 for k in range(1, primes + 1))


def _native_process(params: Params) -> int:
    """Transform tables, 80 N bytes a prime; what a matrix product and a key switch hold on their way."""
    primes, specials = len(params.primes), len(params.special)
    limbs = primes * (2 * _SUMS + 2) + len(params.digits(params.max_level)) * (primes + specials)
    return _INTERPRETER + (80 << params.log_n) * (primes + specials) + (8 << params.log_n) * limbs


def _sizes(program: Program, params: Params) -> list[int]:
    polynomials = program.dimension.astype(int)
    # Relinearization keeps the memory of the third polynomial.
    polynomials[program.arity :][program.op == Opcode.RELINEARIZE] = 3
    sizes: list[int] = ((program.level.astype(int) + 1) * polynomials * (8 << params.log_n)).tolist()
    return sizes


def _held(program: Program, params: Params) -> tuple[int, int]:
    """Most bytes held at a time when each ciphertext is freed at its last use: in all; the peaks of the sizes."""
    size = _sizes(program, params)
    freed: list[list[int]] = [[] for _ in range(len(program) + 1)]
    last = program.last_uses().tolist()
    for value, end in enumerate(last):
        if 0 <= end < len(program):
            freed[end].append(value)
    held: dict[int, int] = {}
    peak: dict[int, int] = {}
    total = most = 0
    for step in range(-1, len(program)):
        born = range(program.arity) if step < 0 else (program.arity + step,)
        for value in born:
            held[size[value]] = held.get(size[value], 0) + size[value]
            peak[size[value]] = max(peak.get(size[value], 0), held[size[value]])
            total += size[value]
        most = max(most, total)
        for value in freed[step] if step >= 0 else ():
            held[size[value]] -= size[value]
            total -= size[value]
    return most, sum(peak.values())


def _seal_ciphertexts(program: Program, params: Params) -> int:
    """Freed memory serves only ciphertexts of the same size (SEAL's pool is split by size)."""
    return _held(program, params)[1]


def _native_ciphertexts(program: Program, params: Params) -> int:
    """Freed memory serves those of nearly the same size, and some is kept."""
    most, by_size = _held(program, params)
    return min(by_size, most + _KEPT)


FOOTPRINTS = {
    False: Footprint(_full_keys, _seal_ciphertexts, _seal_process),
    True: Footprint(_keys_by_level, _native_ciphertexts, _native_process),
}
"""By whether the backend fuses matrix products."""
