"""CKKS parameters: a modulus chain, its scale, and the security that the pair gives.

Security follows the HomomorphicEncryption.org standard's table for a uniform ternary secret and
128 bits (Albrecht et al., 2018, table 1), with the entry for 2^16 from its 2024 revision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pi_compiler.errors import ParameterError

MAX_LOG_QP: dict[int, int] = {10: 27, 11: 54, 12: 109, 13: 218, 14: 438, 15: 881, 16: 1772}
"""log2 of the largest modulus (special primes included) at 128 bits, by log2 of the ring degree."""

_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


@dataclass(frozen=True, slots=True)
class Params:
    """A concrete CKKS parameter set.

    Attributes:
        log_n: log2 of the ring degree N; there are N/2 slots.
        primes: q_0 ... q_L; level l means that q_0 ... q_l are left.
        special: the special primes of key switching.
        scale: nominal scale of a ciphertext.
        security: bits that the standard's table grants, 0 if it grants fewer than 128.
        digit: how many primes of the chain form one digit of key switching; 0 means as many as there are special ones.
    """

    log_n: int
    primes: tuple[int, ...]
    special: tuple[int, ...]
    scale: float
    security: int
    digit: int = 0

    def __post_init__(self) -> None:
        if not self.digit:
            object.__setattr__(self, "digit", len(self.special))

    @property
    def slots(self) -> int:
        """Number of slots, N/2."""
        return 1 << (self.log_n - 1)

    @property
    def max_level(self) -> int:
        """The level of a fresh ciphertext."""
        return len(self.primes) - 1

    @property
    def log_scale(self) -> float:
        """log2 of the nominal scale."""
        return math.log2(self.scale)

    @property
    def log_qp(self) -> float:
        """log2 of the whole modulus, special primes included."""
        return sum(math.log2(q) for q in (*self.primes, *self.special))

    def digits(self, level: int) -> tuple[tuple[int, ...], ...]:
        """The digits of key switching at a level: the primes of each."""
        left = self.primes[: level + 1]
        return tuple(left[i : i + self.digit] for i in range(0, level + 1, self.digit))

    def key_bytes(self, level: int) -> int:
        """Size of a switching key in memory that serves this level and those below."""
        return 16 * len(self.digits(level)) * (level + 1 + len(self.special)) << self.log_n

    def ciphertext_bytes(self, level: int, dimension: int = 2) -> int:
        """Size of a ciphertext in memory, 8 bytes per residue."""
        return 8 * dimension * (level + 1) << self.log_n


def is_prime(n: int) -> bool:
    """Deterministic Miller-Rabin for n < 3.3e24."""
    if n < 2:
        return False
    for p in _WITNESSES:
        if n % p == 0:
            return n == p
    d, r = n - 1, 0
    while d % 2 == 0:
        d, r = d // 2, r + 1
    for a in _WITNESSES:
        x = pow(a, d, n)
        if x in (1, n - 1):
            continue
        for _ in range(r - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def ntt_primes(log_n: int, bits: float, count: int, avoid: Iterable[int] = ()) -> tuple[int, ...]:
    """The ``count`` primes congruent to 1 mod 2N that lie nearest to 2^bits.

    Raises:
        ParameterError: there are not so many below 2^60 and above 2N.
    """
    step, center, used = 2 << log_n, 2.0**bits, set(avoid)
    below = int(center) // step * step + 1
    above = below + step
    found: list[int] = []
    while len(found) < count:
        if below <= step and above >= 1 << 60:
            raise ParameterError(
                f"only {len(found)} of {count} primes near 2^{bits:.1f} exist for ring degree 2^{log_n}"
            )
        if above >= 1 << 60 or (below > step and center - below <= above - center):
            candidate, below = below, below - step
        else:
            candidate, above = above, above + step
        if candidate not in used and is_prime(candidate):
            found.append(candidate)
    return tuple(found)


def security_bits(log_n: int, log_qp: float) -> int:
    """128 if the table allows this modulus at this ring degree, else 0."""
    return 128 if log_qp <= MAX_LOG_QP.get(log_n, 0) else 0


def make_params(
    log_n: int,
    depth: int,
    log_scale: float,
    *,
    log_q0: float,
    log_special: float,
    specials: int = 1,
    digit: int = 0,
    insecure: bool = False,
) -> Params:
    """A chain of ``depth`` rescaling primes near the scale, below them q_0, above them P.

    Args:
        log_n: log2 of the ring degree.
        depth: number of rescalings, i.e. the level of a fresh ciphertext.
        log_scale: log2 of the nominal scale; rescaling primes are the nearest to it.
        log_q0: bits of q_0: the scale plus head-room for the result's magnitude.
        log_special: bits of each special prime.
        specials: how many special primes.
        digit: see ``Params``.
        insecure: allow moduli above the table.

    Raises:
        ParameterError: the modulus is above the table's bound (and ``insecure`` is false), or
            there are not enough primes.
    """
    if log_n not in MAX_LOG_QP:
        raise ParameterError(
            f"ring degree 2^{log_n} is outside the security table",
            f"allowed: 2^{min(MAX_LOG_QP)} to 2^{max(MAX_LOG_QP)}",
        )
    chain = ntt_primes(log_n, log_scale, depth)
    first = ntt_primes(log_n, log_q0, 1, chain)
    special = ntt_primes(log_n, log_special, specials, (*chain, *first))
    params = Params(log_n, (*first, *chain), special, 2.0**log_scale, 0, digit)
    security = security_bits(log_n, params.log_qp)
    if not security and not insecure:
        raise ParameterError(
            f"these parameters give less than 128-bit security: log QP is {params.log_qp:.0f} at ring degree 2^{log_n}",
            f"the standard's table allows {MAX_LOG_QP[log_n]} bits there",
            hint="fewer levels, a smaller scale, a larger ring degree; or --insecure for experiments",
        )
    return replace(params, security=security)
