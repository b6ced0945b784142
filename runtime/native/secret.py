"""The secret side: key generation, encryption, decryption. The only module that touches a secret key.

Randomness that must stay unknown comes from the operating system word by word
(``runtime.randomness``); only public uniform polynomials are expanded from a seed, itself from there,
by SHAKE-128. The secret is uniform over {-1, 0, 1}^N, errors are discrete Gaussians of standard
deviation 3.2, sampled by inverting their cumulative distribution with 64-bit words. Parameters are
checked against the security table when the ring is made.

    encryption        (a (-s) + e + m, a)
    public key        (b, a) with b = a (-s) + e, over Q and the special primes P
    encryption by it  ((v b + e_0) / P + m, (v a + e_1) / P), v as the secret, rounded
    relinearization   per digit j: (a (-s) + e + P g_j s^2, a)
    rotation by k     per digit j: (a (-t) + e + P g_j s, a), where the automorphism of k takes t to s
    conjugation       like a rotation, by X -> 1/X

g_j is 1 modulo the primes of digit j and 0 modulo all others. ``a`` is uniform, ``e`` fresh, each time.

The data owner encrypts with the secret key: less noise, and half the size in files. Third parties take
the public key; dividing by P leaves the noise of a rescaling of the v e + e_1 s that it brings. What comes
back is decrypted by the owner; values that leave him need ``runtime.flooding`` first.

Everything that holds a secret, an error, a mask or a plaintext is overwritten when it is let go: the
compiled module's polynomials (``Polys`` made as secret) and the arrays here. Python may have copied
what it was given before it came here, such as the slot values; those are their maker's to wipe.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, localcontext
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import ArtifactError, ExecutionError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.runtime import keys as files
from pi_compiler.runtime.backend import Ciphertext, Rotations
from pi_compiler.runtime.native.material import (
    CONJUGATE,
    MAPPED,
    RELINEARIZE,
    ROTATIONS,
    SEED_BYTES,
    KeySeed,
    NativeCiphertext,
    NativeKeys,
    NativeRing,
    default_threads,
    read,
    read_seed,
    write,
    write_keys,
)
from pi_compiler.runtime.randomness import fill, wiped
from pi_compiler.runtime.rules import Rules

if TYPE_CHECKING:
    from pi_compiler.runtime.native._core import Polys

ERROR_STD = "3.2"
_TAIL = 32
"""Errors beyond ten standard deviations have less than 2^-64 of the probability."""


def ternary(n: int) -> NDArray[np.int8]:
    """Independent uniform values of -1, 0, 1."""
    found, filled = np.empty(n, np.int8), 0
    fresh = np.empty(n + n // 64 + 64, np.uint8)
    while filled < n:
        fill(fresh)
        kept = fresh[fresh < 255]  # a multiple of 3
        with wiped(fresh, kept):
            kept %= 3
            taken = kept[: n - filled].view(np.int8)
            found[filled : filled + taken.size] = taken
            filled += taken.size
    found -= np.int8(1)
    return found


@cache
def _cumulative() -> NDArray[np.uint64]:
    """2^64 times the probability of an error of at most -_TAIL, -_TAIL + 1, ... _TAIL - 1."""
    with localcontext() as context:
        context.prec = 50
        variance = Decimal(ERROR_STD) ** 2
        weights = [(-Decimal(k * k) / (2 * variance)).exp() for k in range(-_TAIL, _TAIL + 1)]
        total, sums = sum(weights), [sum(weights[: i + 1]) for i in range(2 * _TAIL)]
        return np.array([min(int(s / total * 2**64), 2**64 - 1) for s in sums], np.uint64)


def gaussian(n: int) -> FloatArray:
    """Independent discrete Gaussians of standard deviation 3.2."""
    words = np.empty(n, np.uint64)
    fill(words)
    places = np.searchsorted(_cumulative(), words, side="right")
    with wiped(words, places):
        errors = places.astype(np.float64)
        errors -= _TAIL
        return errors


def small(ring: NativeRing, coefficients: FloatArray, level: int, *, extended: bool = True) -> Polys:
    """A secret polynomial of small coefficients; the array is wiped."""
    with wiped(coefficients):
        return ring.core.small(coefficients, level, extended)


class NativePublicKey:
    """Encrypts for the owner of the secret key; nothing in it is secret."""

    __slots__ = ("_key", "_ring", "_rules", "_seed")

    def __init__(self, ring: NativeRing, seed: bytes, key: Polys) -> None:
        self._ring, self._seed, self._key = ring, seed, key
        self._rules = Rules(ring.params, frozenset(), False)

    def encrypt(self, slots: FloatArray, level: int, scale: float) -> NativeCiphertext:
        self._rules.values(slots)
        self._rules.room(level, scale)
        core, n = self._ring.core, 1 << self._ring.params.log_n
        plain = self._ring.encode(slots, level, scale, secret=True)
        mask = core.empty(2, level, True, secret=True)
        signs = ternary(n)
        with wiped(signs):
            v = small(self._ring, signs.astype(np.float64), level)
        for j in range(2):
            core.mul_add(mask, j, self._key, j, v, 0, small(self._ring, gaussian(n), level), 0)
        return NativeCiphertext(self._ring, core.add_plain(core.divide_special(mask), plain), scale)

    def save(self, path: Path) -> int:
        header = {"seed": self._seed.hex()}
        return write(self._ring.params, path, "public key", header, [np.asarray(self._key)[:1]])

    @staticmethod
    def load(ring: NativeRing, path: Path) -> NativePublicKey:
        """The key that ``save`` wrote.

        Raises:
            ArtifactError: it is none, or for other parameters.
        """
        header, content = read(ring.params, path, "public key")
        try:
            seed = read_seed(header.get("seed"))
            key = ring.core.load(2, 1, ring.params.max_level, True, content)
        except ValueError as error:
            raise ArtifactError(f"{str(path)!r} is not a public key for these parameters: {error}") from error
        ring.uniform(key, 1, seed, 0)
        return NativePublicKey(ring, seed, key)


class NativeClient:
    """The data owner's side."""

    def __init__(
        self,
        ring: NativeRing,
        secret: NDArray[np.int8],
        rotations: Rotations,
        relinearize: bool,
        conjugate: bool = False,
    ) -> None:
        self._ring, self._core = ring, ring.core
        self._coefficients = secret
        self._levels, self._relinearize = files.highest_levels(rotations, ring.params), relinearize
        self._conjugate = conjugate
        self._rules = Rules(ring.params, frozenset(self._levels), relinearize)
        self._secret = self._small(secret.astype(np.float64))
        self._minus = self._core.neg(self._secret)
        self._keys: NativeKeys | None = None
        self._public: NativePublicKey | None = None

    @staticmethod
    def generate(ring: NativeRing, rotations: Rotations, relinearize: bool, conjugate: bool = False) -> NativeClient:
        """A client with a fresh secret key."""
        return NativeClient(ring, ternary(1 << ring.params.log_n), rotations, relinearize, conjugate)

    @staticmethod
    def load(ring: NativeRing, path: Path, rotations: Rotations, relinearize: bool) -> NativeClient:
        """The client whose secret key ``save`` wrote."""
        _, content = read(ring.params, path, "secret key")
        secret = np.frombuffer(content, np.int8).copy()
        if secret.size != 1 << ring.params.log_n or secret.min() < -1 or secret.max() > 1:
            secret[:] = 0
            raise ArtifactError(f"{str(path)!r} is not a secret key for these parameters")
        return NativeClient(ring, secret, rotations, relinearize)

    def __del__(self) -> None:
        if hasattr(self, "_coefficients"):
            self._coefficients[:] = 0

    def _small(self, coefficients: FloatArray, level: int | None = None) -> Polys:
        top = self._ring.params.max_level
        return small(self._ring, coefficients, top if level is None else level)

    def _make_key(self, message: Polys, minus: Polys, of: KeySeed) -> Polys:
        """A key that turns what ``message`` multiplies into a ciphertext under minus ``minus``, up to a level."""
        level, seed = of
        digits, n = self._core.digits(level), 1 << self._ring.params.log_n
        key = self._core.empty(2 * digits, level, True)
        for j in range(digits):
            self._ring.uniform(key, digits + j, seed, j)
            self._core.mul_add(key, j, key, digits + j, minus, 0, self._small(gaussian(n), level), 0)
            self._core.add_gadget(key, j, message, 0, j)
        return key

    def _seeds(self, levels: Mapping[int, int]) -> dict[int, KeySeed]:
        """A fresh seed for each key."""
        return {step: (level, os.urandom(SEED_BYTES)) for step, level in levels.items()}

    def _rotation_key(self, step: int, of: KeySeed) -> Polys:
        inverse = pow(self._ring.galois(step), -1, 2 << self._ring.params.log_n)
        return self._make_key(self._secret, self._core.permute(self._minus, inverse), of)

    def _rotation_keys(self, seeds: Mapping[int, KeySeed]) -> Iterator[Polys]:
        """The rotation keys in order, as many at a time as there are threads."""
        threads = default_threads()
        with ThreadPoolExecutor(threads) as pool:
            left = iter(seeds.items())
            while some := list(islice(left, threads)):
                yield from pool.map(lambda entry: self._rotation_key(*entry), some)

    def _relinearization_key(self, of: KeySeed) -> Polys:
        level = self._ring.params.max_level
        square, zero = (self._core.empty(1, level, True, secret=True) for _ in range(2))
        self._core.mul_add(square, 0, self._secret, 0, self._secret, 0, zero, 0)
        return self._make_key(square, self._minus, of)

    def _conjugation_key(self, of: KeySeed) -> Polys:
        # The automorphism is its own inverse.
        minus = self._core.permute(self._minus, self._ring.conjugation)
        return self._make_key(self._secret, minus, of)

    @property
    def public_key(self) -> NativePublicKey:
        if self._public is None:
            seed, top = os.urandom(SEED_BYTES), self._ring.params.max_level
            key = self._core.empty(2, top, True)
            self._ring.uniform(key, 1, seed, 0)
            self._core.mul_add(key, 0, key, 1, self._minus, 0, self._small(gaussian(1 << self._ring.params.log_n)), 0)
            self._public = NativePublicKey(self._ring, seed, key)
        return self._public

    @property
    def eval_keys(self) -> NativeKeys:
        if self._keys is None:
            seeds, top = self._seeds(self._levels), {0: self._ring.params.max_level}
            rotation = dict(zip(seeds, self._rotation_keys(seeds), strict=True))
            relin = self._relinearization_key(self._seeds(top)[0]) if self._relinearize else None
            conjugation = self._conjugation_key(self._seeds(top)[0]) if self._conjugate else None
            self._keys = NativeKeys(self._ring, rotation, relin, conjugation)
        return self._keys

    def save_eval_keys(self, folder: Path) -> int:
        files.make_folder(folder)
        written, top = 0, {0: self._ring.params.max_level}
        if self._levels:
            seeds = self._seeds(self._levels)
            written += write_keys(self._ring, folder / ROTATIONS, seeds, self._rotation_keys(seeds))
        if self._relinearize:
            seeds = self._seeds(top)
            written += write_keys(self._ring, folder / RELINEARIZE, seeds, [self._relinearization_key(seeds[0])])
        for left in (CONJUGATE, MAPPED):
            (folder / left).unlink(missing_ok=True)
        if self._conjugate:
            seeds = self._seeds(top)
            written += write_keys(self._ring, folder / CONJUGATE, seeds, [self._conjugation_key(seeds[0])])
        manifest = files.manifest("native", self._ring.params, frozenset(self._levels), self._relinearize)
        return written + files.write_manifest(folder, manifest)

    def _encrypt(self, slots: FloatArray, level: int, scale: float) -> tuple[bytes, NativeCiphertext]:
        self._rules.values(slots)
        self._rules.room(level, scale)
        plain = self._ring.encode(slots, level, scale, secret=True)
        fresh, seed = self._core.empty(2, level, False, secret=True), os.urandom(SEED_BYTES)
        error = small(self._ring, gaussian(1 << self._ring.params.log_n), level, extended=False)
        self._ring.uniform(fresh, 1, seed, 0)
        self._core.mul_add(fresh, 0, fresh, 1, self._minus, 0, error, 0)
        return seed, NativeCiphertext(self._ring, self._core.add_plain(fresh, plain), scale)

    def encrypt(self, slots: FloatArray, level: int, scale: float) -> NativeCiphertext:
        return self._encrypt(slots, level, scale)[1]

    def encrypt_to(self, path: Path, slots: FloatArray, level: int, scale: float) -> int:
        seed, x = self._encrypt(slots, level, scale)
        header = {"level": level, "polys": 2, "scale": scale, "seed": seed.hex()}
        return write(self._ring.params, path, "ciphertext", header, [np.asarray(x.polys)[:1]])

    def decrypt(self, ciphertext: Ciphertext) -> FloatArray:
        x = self._ring.own(ciphertext)
        if x.polys.polys not in (2, 3) or x.polys.extended:
            raise ExecutionError("cannot decrypt: this is no ciphertext")
        message = self._core.empty(1, x.polys.level, False, secret=True)
        last = x.polys.polys - 1
        self._core.mul_add(message, 0, x.polys, last, self._secret, 0, x.polys, last - 1)
        if last == 2:
            self._core.mul_add(message, 0, message, 0, self._secret, 0, x.polys, 0)
        try:
            values = self._core.decode(message)
        except ValueError as error:
            raise ExecutionError(f"cannot decrypt: {error}") from error
        values /= x.scale
        return values

    def save(self, path: Path) -> None:
        write(self._ring.params, path, "secret key", {}, [self._coefficients], private=True)

    def save_ciphertext(self, ciphertext: Ciphertext, path: Path) -> int:
        return self._ring.save(ciphertext, path)

    def load_ciphertext(self, path: Path) -> NativeCiphertext:
        return self._ring.load(path)
