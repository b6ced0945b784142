"""What a backend is: arithmetic on ciphertexts, keys on one side and evaluation on the other.

A backend splits into two objects that never meet in one process of a real deployment. The
``Client`` holds the secret key: it encrypts, decrypts and makes ``EvalKeys``. The ``Evaluator`` is
built from parameters and ``EvalKeys`` alone and does the arithmetic. The executor owns timing,
liveness and progress; a backend contains arithmetic only.

Ciphertexts are immutable: an operation may return its operand itself (a rotation by zero), so
nothing may write into one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from pi_compiler.errors import BackendUnavailable, ExecutionError, ParameterError, UnsupportedInstruction
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import CtType, Opcode, Program

Ciphertext: TypeAlias = object
Plaintext: TypeAlias = object
Rotations: TypeAlias = Iterable[int] | Mapping[int, int]
"""Rotation amounts, of either sign; as a mapping each with the highest level at which it is used."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, compared with a program before any key is made.

    Attributes:
        opcodes: instructions it has.
        max_log_n: largest ring degree.
        max_prime_bits: largest prime.
        specials: number of special primes that its key switching uses.
        encrypted: false for backends that only compute the meaning (clear, sim).
        batch: whether one slot vector may carry a leading batch dimension.
        any_specials: whether another number of special primes will do, and digits of any number of primes.
        fused: whether matrix products are one call, rotation keys as large as their level needs, and free memory
            shared by sizes.
        fast_prime_bits: largest prime that plans should use, where larger ones work but are slow; 0: any.
    """

    opcodes: frozenset[Opcode]
    max_log_n: int
    max_prime_bits: int
    specials: int
    encrypted: bool
    batch: bool
    any_specials: bool = False
    fused: bool = False
    fast_prime_bits: int = 0


class EvalKeys(Protocol):
    """Relinearization and rotation keys: public material."""

    @property
    def rotations(self) -> frozenset[int]:
        """Rotation amounts that there are keys for, in 1 .. slots - 1."""

    @property
    def relinearize(self) -> bool:
        """Whether there is a relinearization key."""

    @property
    def nbytes(self) -> int:
        """Size in memory."""


class PublicKey(Protocol):
    """What third parties encrypt with; only the owner of the secret key can decrypt."""

    def encrypt(self, slots: FloatArray, level: int, scale: float) -> Ciphertext:
        """Encrypt one slot vector (one period; repeated to fill)."""

    def save(self, path: Path) -> int:
        """Write the key; returns the bytes written."""


class Client(Protocol):
    """The data owner's side: holds the secret key."""

    @property
    def public_key(self) -> PublicKey:
        """What third parties encrypt with, made when first asked for; no secret in it."""

    def encrypt(self, slots: FloatArray, level: int, scale: float) -> Ciphertext:
        """Encrypt one slot vector (one period; repeated to fill) under the secret key."""

    def encrypt_to(self, path: Path, slots: FloatArray, level: int, scale: float) -> int:
        """Encrypt into a file, in about half of what ``save_ciphertext`` takes; returns its bytes."""

    def decrypt(self, ciphertext: Ciphertext) -> FloatArray:
        """The slot values of a ciphertext, all of them."""

    @property
    def eval_keys(self) -> EvalKeys:
        """What the evaluating side needs, made when first asked for; no secret in it."""

    def save_eval_keys(self, folder: Path) -> int:
        """Write fresh evaluation keys in their short form (half from a seed); returns the bytes written."""

    def save(self, path: Path) -> None:
        """Write the secret key to a new file that only its owner may read (mode 0600)."""

    def save_ciphertext(self, ciphertext: Ciphertext, path: Path) -> int:
        """Write a ciphertext; returns the bytes written."""

    def load_ciphertext(self, path: Path) -> Ciphertext:
        """Read a ciphertext that either side wrote."""


class Evaluator(Protocol):
    """The evaluating side: never holds a secret key or a plaintext input.

    Operations check the rules of ``Opcode`` and raise ``ExecutionError``; the executor adds the
    layer.
    """

    def encode(self, values: FloatArray, level: int, scale: float) -> Plaintext:
        """Encode one period of slot values for plaintext operands."""

    def plaintext_bytes(self, plaintext: Plaintext) -> int:
        """Memory an encoded plaintext holds."""

    def ciphertext_bytes(self, ciphertext: Ciphertext) -> int:
        """Memory a ciphertext holds."""

    def type_of(self, ciphertext: Ciphertext) -> CtType:
        """Level, scale and dimension as the ciphertext itself has them."""

    def save_ciphertext(self, ciphertext: Ciphertext, path: Path) -> int:
        """Write a ciphertext; returns the bytes written."""

    def load_ciphertext(self, path: Path) -> Ciphertext:
        """Read a ciphertext that either side wrote."""

    def add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext: ...
    def sub(self, a: Ciphertext, b: Ciphertext) -> Ciphertext: ...
    def neg(self, a: Ciphertext) -> Ciphertext: ...
    def mul(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        """Product without relinearization; ``a is b`` is a square."""

    def add_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext: ...
    def mul_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext: ...
    def rotate(self, a: Ciphertext, by: int) -> Ciphertext:
        """Slot i receives slot i + by."""

    def relinearize(self, a: Ciphertext) -> Ciphertext: ...
    def rescale(self, a: Ciphertext, scale: float) -> Ciphertext:
        """Divide by the last prime; ``scale`` is the exact scale that the program gives the result."""

    def drop_level(self, a: Ciphertext, level: int) -> Ciphertext: ...


@runtime_checkable
class Conjugating(Protocol):
    """An evaluator that can also conjugate every slot."""

    def conjugate(self, a: Ciphertext) -> Ciphertext:
        """Dimension 2 only; takes a key of its own."""


@runtime_checkable
class MapsKeys(Protocol):
    """A backend that keeps evaluation keys in the form that it computes with."""

    def map_keys(self, params: Params, folder: Path, *, insecure: bool = False) -> EvalKeys:
        """What ``load_keys`` gives, mapped from a file; that is written into the folder first if it is not there.

        Raises:
            ArtifactError: the keys are damaged or incomplete.
            ExecutionError: they are for other parameters.
        """


@runtime_checkable
class LeveledKeys(Protocol):
    """Keys that serve rotations only up to some level each."""

    @property
    def levels(self) -> Mapping[int, int]:
        """Per rotation amount in 1 .. slots - 1 the highest level."""


class Backend(Protocol):
    """One way to run a program."""

    name: str
    capabilities: Capabilities

    def available(self) -> str | None:
        """None, or why it is not available and what to install."""

    def keygen(
        self, params: Params, rotations: Rotations, *, relinearize: bool = True, insecure: bool = False
    ) -> Client:
        """Fresh keys from the operating system's randomness, for exactly these rotations.

        Args:
            params: the parameters.
            rotations: rotation amounts of the program; with levels, keys may be only so large as these need.
            relinearize: whether the program relinearizes.
            insecure: accept parameters below 128 bits.
        """

    def evaluator(self, params: Params, keys: EvalKeys) -> Evaluator:
        """The evaluating side; gets no secret."""

    def load_keys(self, params: Params, folder: Path, *, insecure: bool = False) -> EvalKeys:
        """Evaluation keys written by ``Client.save_eval_keys``."""

    def load_public_key(self, params: Params, path: Path, *, insecure: bool = False) -> PublicKey:
        """The key that ``PublicKey.save`` wrote."""

    def load_client(
        self,
        params: Params,
        path: Path,
        rotations: Rotations = (),
        *,
        relinearize: bool = True,
        insecure: bool = False,
    ) -> Client:
        """The client whose secret key ``Client.save`` wrote."""


BACKENDS: dict[str, str] = {
    "clear": "pi_compiler.runtime.clear:ClearBackend",
    "native": "pi_compiler.runtime.native:NativeBackend",
    "sim": "pi_compiler.runtime.sim:SimBackend",
    "tenseal": "pi_compiler.runtime.tenseal:TensealBackend",
}
"""Name -> "module:Class", imported on demand."""

AUTO = "auto"
"""Stands for the first of ``PREFERRED`` that is available."""

PREFERRED = ("native", "tenseal")
"""Backends that encrypt, best first."""

SHARED_OPCODES = frozenset(Opcode) - {Opcode.CONJUGATE, Opcode.BOOTSTRAP}
"""The instructions that ``Evaluator`` has methods for; ``Conjugating`` has one more."""


def fill(values: FloatArray, slots: int) -> FloatArray:
    """Every slot (..., slots) of vectors given by one period (..., period).

    Raises:
        ExecutionError: the period does not divide the slots.
    """
    period = values.shape[-1] if values.ndim else 0
    if period == 0 or slots % period:
        raise ExecutionError(f"a vector of {period} values does not repeat in {slots} slots")
    return values if period == slots else np.tile(values, slots // period)


def get_backend(name: str) -> Backend:
    """The backend of that name, checked to be available.

    Raises:
        ParameterError: there is no such backend.
        BackendUnavailable: its library is missing; for ``AUTO``, nothing that encrypts is there.
    """
    if name == AUTO:
        name = available_backends()[0]
    backend = _backend(name)
    if (why := backend.available()) is not None:
        raise BackendUnavailable(f"backend {name!r} is not available: {why}")
    return backend


def _backend(name: str) -> Backend:
    if name not in BACKENDS:
        raise ParameterError(f"there is no backend {name!r}", f"known: {', '.join(BACKENDS)}")
    module, _, cls = BACKENDS[name].partition(":")
    made: Backend = getattr(importlib.import_module(module), cls)()
    return made


def available_backends() -> list[str]:
    """The backends that encrypt and are available, best first: what ``AUTO`` stands for.

    Raises:
        BackendUnavailable: there is none; says what to install.
    """
    lacking = {name: _backend(name).available() for name in PREFERRED}
    found = [name for name, why in lacking.items() if why is None]
    if not found:
        raise BackendUnavailable(
            "no backend that encrypts is available", *(f"{name}: {why}" for name, why in lacking.items())
        )
    return found


def best_for(params: Params, planned: str) -> str:
    """What ``AUTO`` means for a plan: the best backend that is there and can run it at full speed.

    Args:
        params: the plan's parameters.
        planned: the backend that the plan was made for; taken where it encrypts nothing, or nothing else will do.
    """
    if planned not in PREFERRED:
        return planned
    for name in PREFERRED:
        backend = _backend(name)
        if backend.available() is None and not _faults(params, backend.capabilities, fast=True):
            return name
    return planned


def _faults(params: Params, can: Capabilities, *, fast: bool = False) -> list[str]:
    """What of the parameters a backend cannot do, or with ``fast`` not at full speed."""
    faults = []
    most = can.fast_prime_bits if fast and can.fast_prime_bits else can.max_prime_bits
    if params.log_n > can.max_log_n:
        faults.append(f"ring degree 2^{params.log_n}, at most 2^{can.max_log_n}")
    if (bits := max((*params.primes, *params.special)).bit_length()) > most:
        faults.append(f"a prime of {bits} bits, at most {most}")
    if len(params.special) != can.specials and can.encrypted and not can.any_specials:
        faults.append(f"{len(params.special)} special primes, exactly {can.specials} needed")
    return faults


def require(backend: Backend, program: Program, params: Params, keys: EvalKeys | None = None) -> None:
    """Check that a backend, and keys where given, can run a program; takes no time to speak of.

    Raises:
        UnsupportedInstruction: the program has instructions that the backend lacks.
        ParameterError: the parameters are outside what the backend can do.
        ExecutionError: keys are missing.
    """
    can = backend.capabilities
    lacking = {Opcode(op) for op in np.unique(program.op).tolist()} - can.opcodes
    if lacking:
        names = ", ".join(sorted(op.name.lower() for op in lacking))
        raise UnsupportedInstruction(f"backend {backend.name!r} has no instruction {names}")
    faults = _faults(params, can)
    if faults:
        raise ParameterError(f"backend {backend.name!r} cannot use these parameters", *faults)
    if keys is None:
        return
    missing = {k % params.slots for k in program.rotations()} - {0} - keys.rotations
    if missing:
        some = ", ".join(map(str, sorted(missing)[:8]))
        raise ExecutionError(f"{len(missing)} rotation keys are missing: {some}", hint="keys made for this model")
    if isinstance(keys, LeveledKeys):
        serves = keys.levels
        low = {
            k for k, level in program.rotation_levels().items() if k % params.slots and serves[k % params.slots] < level
        }
        if low:
            some = ", ".join(map(str, sorted(low)[:8]))
            raise ExecutionError(
                f"{len(low)} rotation keys serve lower levels than needed: {some}", hint="keys made for this model"
            )
    if program.count(Opcode.RELINEARIZE) and not keys.relinearize:
        raise ExecutionError("the relinearization key is missing", hint="keys made for this model")
