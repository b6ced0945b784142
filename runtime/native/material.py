"""What both sides share: the ring, ciphertexts, plaintexts, evaluation keys, and their files.

A file is a line of JSON that says what it holds, then residues as little-endian 64-bit words, sealed
by a digest (``runtime.keys``). Uniform polynomials are not stored but expanded from a seed of 32
bytes by SHAKE-128, so that fresh ciphertexts and keys take half.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

try:
    from pi_compiler.runtime.native import _core as core
except ImportError as error:
    core, _CORE_ERROR = None, str(error)  # type: ignore[assignment]

from pi_compiler.errors import ArtifactError, ExecutionError, ParameterError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import CtType
from pi_compiler.runtime import keys as files
from pi_compiler.runtime.backend import Ciphertext

SEED_BYTES = 32
ROTATIONS, RELINEARIZE, CONJUGATE = "rotations.native", "relinearize.native", "conjugate.native"
MAPPED = "mapped.native"
_MAGIC = b"pi-compiler native 1\n"
_LONGEST_HEADER = 1 << 20
_HINT = "keys made for this model"
_ERRORS = (ValueError, IndexError, MemoryError, OverflowError, TypeError)

Header: TypeAlias = Mapping[str, object]
KeySeed: TypeAlias = tuple[int, bytes]
"""The highest level that a key serves, and the seed of its uniform half."""


def core_error() -> str | None:
    """Why the compiled module is missing, or None."""
    if core is not None:
        return None
    return (
        "its compiled module is missing: install a C++17 compiler (such as g++) and reinstall pi-compiler "
        f"({_CORE_ERROR})"
    )


def default_threads() -> int:
    """Threads if nobody says: PI_THREADS, else the cores that this process may use."""
    asked = os.environ.get("PI_THREADS", "")
    if asked.isdigit() and 0 < int(asked) <= 256:
        return int(asked)
    return min(256, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class NativeRing:
    """Parameters, and the compiled module's ring for them.

    Raises:
        ParameterError: the parameters are insecure or outside what the backend can do.
    """

    __slots__ = ("core", "params")

    def __init__(self, params: Params, *, insecure: bool, threads: int | None = None, kernels: str = "") -> None:
        files.require_secure(params, insecure=insecure)
        self.params = params
        primes = [*params.primes, *params.special]
        try:
            self.core = core.Ring(
                params.log_n,
                primes,
                len(params.special),
                default_threads() if threads is None else threads,
                kernels,
                params.digit,
            )
        except _ERRORS as error:
            raise ParameterError(f"the native backend refuses these parameters: {error}") from error

    def galois(self, step: int) -> int:
        """The Galois element whose automorphism brings slot i + step to slot i."""
        return pow(3, step, 2 << self.params.log_n)

    @property
    def conjugation(self) -> int:
        """The Galois element of X -> 1/X, which conjugates every slot."""
        return (2 << self.params.log_n) - 1

    def encode(
        self,
        values: FloatArray,
        level: int,
        scale: float,
        *,
        extended: bool = False,
        late: bool = False,
        secret: bool = False,
    ) -> core.Plain:
        """Values (period,); with ``secret``, memory that held them is wiped when it is let go.

        Raises:
            ExecutionError: they do not fit the modulus.
        """
        if values.ndim != 1:
            raise ExecutionError(f"one slot vector at a time, not an array of shape {values.shape}")
        try:
            return self.core.encode(np.asarray(values, np.float64), scale, level, extended, late, secret)
        except _ERRORS as error:
            largest = float(np.abs(values).max())
            raise ExecutionError(
                f"cannot encode values up to {largest:.3g} at scale {scale:.4g}, level {level}: {error}"
            ) from error

    def uniform(self, into: core.Polys, poly: int, seed: bytes, number: int) -> None:
        """Fill a polynomial with the uniform residues that a seed and a number stand for."""
        n, chain = 1 << self.params.log_n, len(self.params.primes)
        limbs = list(range(into.level + 1))
        if into.extended:
            limbs += range(chain, chain + len(self.params.special))
        primes = (*self.params.primes, *self.params.special)
        for i, prime in enumerate(limbs):
            # A word is skipped with probability q / 2^64 at most; 64 more than twice as many as expected.
            words = n + (2 * n * primes[prime] >> 64) + 64
            stream = hashlib.shake_128(seed + struct.pack("<II", number, prime)).digest(8 * words)
            self.core.uniform(into, poly, i, stream)

    def own(self, ciphertext: Ciphertext) -> NativeCiphertext:
        """The ciphertext, checked to be one of this ring.

        Raises:
            ExecutionError: it is not.
        """
        if not isinstance(ciphertext, NativeCiphertext):
            raise ExecutionError(f"the native backend cannot compute with a {type(ciphertext).__name__}")
        if ciphertext.ring is not self and ciphertext.ring.params != self.params:
            raise ExecutionError("a ciphertext of other parameters", hint=_HINT)
        return ciphertext

    def save(self, ciphertext: Ciphertext, path: Path) -> int:
        """Write a ciphertext; returns the bytes written."""
        x = self.own(ciphertext)
        header = {"level": x.polys.level, "polys": x.polys.polys, "scale": x.scale}
        return write(self.params, path, "ciphertext", header, [np.asarray(x.polys)])

    def load(self, path: Path) -> NativeCiphertext:
        """Read a ciphertext.

        Raises:
            ArtifactError: it is none, or for other parameters.
        """
        header, content = read(self.params, path, "ciphertext")
        try:
            level, polys, scale = _integer(header, "level"), _integer(header, "polys"), _number(header, "scale")
            if not 2 <= polys <= 3 or not 0 <= level <= self.params.max_level:
                raise ValueError("its dimension or level is out of range")
            if not 0 < scale < float("inf"):
                raise ValueError("its scale is out of range")
            if "seed" not in header:
                return NativeCiphertext(self, self.core.load(polys, polys, level, False, content), scale)
            data = self.core.load(2, 1, level, False, content)
            self.uniform(data, 1, read_seed(header["seed"]), 0)
            return NativeCiphertext(self, data, scale)
        except _ERRORS as error:
            raise _damaged(path, "ciphertext", error) from error


@dataclass(slots=True, eq=False)
class NativeCiphertext:
    """Two or three polynomials, and their scale; ``digits`` are kept while rotations share them."""

    ring: NativeRing
    polys: core.Polys
    scale: float
    digits: core.Digits | None = field(default=None)

    @property
    def type(self) -> CtType:
        """Level, scale and dimension."""
        return CtType(self.polys.level, self.scale, self.polys.polys)


@dataclass(frozen=True, slots=True, eq=False)
class NativePlaintext:
    """An encoded constant and its scale."""

    ring: NativeRing
    plain: core.Plain
    scale: float


class KeySource(Protocol):
    """A file whose keys are looked at when they are first used."""

    def check(self, key: core.Polys) -> None:
        """Refuse a key that is not what was written.

        Raises:
            ArtifactError: it is damaged, or the file changed.
        """


class NativeKeys:
    """Rotation, relinearization and conjugation keys; public, and nothing else in it.

    Args:
        ring: what they are for.
        rotation: keys by rotation amount.
        relin: the relinearization key.
        conjugation: the key for conjugation.
        source: the mapped file that they lie in; None: they are in memory and checked.
    """

    __slots__ = ("conjugation", "relin", "ring", "rotation", "source")

    def __init__(
        self,
        ring: NativeRing,
        rotation: Mapping[int, core.Polys],
        relin: core.Polys | None,
        conjugation: core.Polys | None = None,
        source: KeySource | None = None,
    ) -> None:
        self.ring, self.rotation, self.relin, self.conjugation = ring, rotation, relin, conjugation
        self.source = source

    def ready(self, key: core.Polys) -> core.Polys:
        """The key, after what has to be checked before arithmetic.

        Raises:
            ArtifactError: it is damaged.
        """
        if self.source is not None:
            self.source.check(key)
        return key

    @property
    def levels(self) -> dict[int, int]:
        """Per rotation amount the highest level that its key serves."""
        return {step: key.level for step, key in self.rotation.items()}

    @property
    def rotations(self) -> frozenset[int]:
        return frozenset(self.rotation)

    @property
    def relinearize(self) -> bool:
        return self.relin is not None

    @property
    def nbytes(self) -> int:
        others = [key for key in (self.relin, self.conjugation) if key is not None]
        return sum(key.nbytes for key in (*self.rotation.values(), *others))


def write(
    params: Params,
    path: Path,
    kind: str,
    header: Header,
    content: Iterable[NDArray[np.uint64] | NDArray[np.int8]],
    *,
    private: bool = False,
) -> int:
    """Write a sealed file; returns its bytes."""
    named = {"kind": kind, "log_n": params.log_n, "primes": params.primes, "special": params.special}
    named |= {"digit": params.digit, **header}

    def put(name: str) -> None:
        with open(name, "wb") as file:
            file.write(_MAGIC + json.dumps(named).encode() + b"\n")
            for part in content:
                file.write(np.ascontiguousarray(part).data)

    return files.write_sealed(path, put, private=private)


def read(params: Params, path: Path, kind: str) -> tuple[Header, memoryview]:
    """Header and content of a sealed file; the content is mapped, not read.

    Raises:
        ArtifactError: it is missing, damaged, of another kind, or for other parameters.
    """
    files.check_sealed(path, kind)
    whole = np.memmap(path, np.uint8, "r").data[: -hashlib.sha256().digest_size]
    start = len(_MAGIC)
    line = bytes(whole[start : start + _LONGEST_HEADER]).partition(b"\n")[0]
    try:
        if bytes(whole[:start]) != _MAGIC:
            raise ValueError("it is not a file of the native backend")
        header = json.loads(line)
        if not isinstance(header, dict) or header.get("kind") != kind:
            raise ValueError("it holds something else")
        found = (header.get("log_n"), header.get("primes"), header.get("special"), header.get("digit"))
        if found != (params.log_n, list(params.primes), list(params.special), params.digit):
            raise ValueError("it is for other parameters")
    except _ERRORS as error:
        raise _damaged(path, kind, error) from error
    return header, whole[start + len(line) + 1 :]


def write_keys(ring: NativeRing, path: Path, seeds: Mapping[int, KeySeed], keys: Iterable[core.Polys]) -> int:
    """Write keys by rotation amount (0: relinearization), each with the seed of its uniform half.

    Args:
        ring: what they are for.
        path: the file.
        seeds: level and seed of each key, in the order in which ``keys`` gives them.
        keys: the keys; one after the other is asked for and let go.
    """
    header = {"keys": {str(step): {"level": level, "seed": seed.hex()} for step, (level, seed) in seeds.items()}}
    return write(ring.params, path, "keys", header, (np.asarray(key)[: key.polys // 2] for key in keys))


class WireKeys:
    """A file of seeded keys, checked as a whole; each key is expanded when it is asked for.

    Raises:
        ArtifactError: it is damaged, or for other parameters.
    """

    __slots__ = ("_content", "_path", "_ring", "seeds")

    def __init__(self, ring: NativeRing, path: Path) -> None:
        self._ring, self._path = ring, path
        header, self._content = read(ring.params, path, "keys")
        try:
            entries = header["keys"]
            if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
                raise ValueError("its list of keys is malformed")
            self.seeds = {int(s): (_integer(e, "level"), read_seed(e["seed"])) for s, e in entries.items()}
            if any(not 0 <= level <= ring.params.max_level for level, _ in self.seeds.values()):
                raise ValueError("a key's level is out of range")
            needed = sum(ring.params.key_bytes(level) // 2 for level, _ in self.seeds.values())
            if len(self._content) != needed or len(self.seeds) != len(entries):
                raise ValueError("its content is not as long as its list of keys")
        except (*_ERRORS, KeyError) as error:
            raise _damaged(path, "file of keys", error) from error

    def __iter__(self) -> Iterator[tuple[int, core.Polys]]:
        at, ring = 0, self._ring
        for step, (level, seed) in self.seeds.items():
            digits, size = ring.core.digits(level), ring.params.key_bytes(level) // 2
            try:
                key = ring.core.load(2 * digits, digits, level, True, self._content[at : at + size])
            except _ERRORS as error:
                raise _damaged(self._path, "file of keys", error) from error
            for digit in range(digits):
                ring.uniform(key, digits + digit, seed, digit)
            at += size
            yield step, key


def load_keys(ring: NativeRing, folder: Path) -> NativeKeys:
    """Evaluation keys from a folder.

    Raises:
        ArtifactError: they are damaged or incomplete.
        ExecutionError: they are for other parameters.
    """
    listed, wire = open_wire(ring, folder)
    keys = {name: dict(found) for name, found in wire.items()}
    rotation = {step: keys[ROTATIONS][step] for step in listed}
    return NativeKeys(ring, rotation, keys.get(RELINEARIZE, {}).get(0), keys.get(CONJUGATE, {}).get(0))


def open_wire(ring: NativeRing, folder: Path) -> tuple[frozenset[int], dict[str, WireKeys]]:
    """The rotations that a folder lists, and its files of seeded keys by name.

    Raises:
        ArtifactError: they are damaged or incomplete.
        ExecutionError: they are for other parameters.
    """
    manifest = files.read_manifest(folder, "native", ring.params)
    wanted = {ROTATIONS: manifest.rotations, RELINEARIZE: frozenset({0} if manifest.relinearize else ())}
    if (folder / CONJUGATE).exists():
        wanted[CONJUGATE] = frozenset({0})
    found = {name: WireKeys(ring, folder / name) for name, steps in wanted.items() if steps}
    if missing := sum(len(steps - found[name].seeds.keys()) for name, steps in wanted.items() if steps):
        raise ArtifactError(f"{str(folder)!r} lacks {missing} of the keys that it lists")
    return manifest.rotations, found


def _integer(header: Header, name: str) -> int:
    value = header.get(name)
    if type(value) is not int:
        raise ValueError(f"{name} is not a whole number")
    return value


def _number(header: Header, name: str) -> float:
    value = header.get(name)
    if type(value) not in (int, float):
        raise ValueError(f"{name} is not a number")
    return float(value)  # type: ignore[arg-type]


def read_seed(text: object) -> bytes:
    """A seed as headers hold it; ValueError if it is malformed."""
    seed = bytes.fromhex(text) if isinstance(text, str) else b""
    if len(seed) != SEED_BYTES:
        raise ValueError("a seed is malformed")
    return seed


def _damaged(path: Path, what: str, error: Exception) -> ArtifactError:
    return ArtifactError(f"{str(path)!r} is not a {what} for these parameters: {error}", hint=_HINT)
