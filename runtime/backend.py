"""What a backend is: arithmetic on ciphertexts, keys on one side and evaluation on the other.

A backend splits into two objects that never meet in one process of a real deployment. The
``Client`` holds the secret key: it encrypts, decrypts and makes ``EvalKeys``. The ``Evaluator`` is
built from parameters and ``EvalKeys`` alone and does the arithmetic. The executor owns timing,
liveness and progress; a backend contains arithmetic only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from pi_compiler.errors import BackendUnavailable, ParameterError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import Opcode

Ciphertext: TypeAlias = object
Plaintext: TypeAlias = object


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
    """

    opcodes: frozenset[Opcode]
    max_log_n: int
    max_prime_bits: int
    specials: int
    encrypted: bool
    batch: bool


class EvalKeys(Protocol):
    """Relinearization and rotation keys: public material."""

    @property
    def nbytes(self) -> int:
        """Size in memory."""

    def save(self, folder: Path) -> int:
        """Write to a folder; returns the bytes written."""


class Client(Protocol):
    """The data owner's side: holds the secret key."""

    def encrypt(self, slots: FloatArray, level: int, scale: float) -> Ciphertext:
        """Encrypt one slot vector (one period; repeated to fill) under the secret key."""

    def decrypt(self, ciphertext: Ciphertext) -> FloatArray:
        """The slot values of a ciphertext, all of them."""

    @property
    def eval_keys(self) -> EvalKeys:
        """What the evaluating side needs; no secret in it."""


class Evaluator(Protocol):
    """The evaluating side: never holds a secret key or a plaintext input."""

    def encode(self, values: FloatArray, level: int, scale: float) -> Plaintext:
        """Encode one period of slot values for plaintext operands."""

    def plaintext_bytes(self, plaintext: Plaintext) -> int:
        """Memory an encoded plaintext holds."""

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


class Backend(Protocol):
    """One way to run a program."""

    name: str
    capabilities: Capabilities

    def available(self) -> str | None:
        """None, or why it is not available and what to install."""

    def keygen(self, params: Params, rotations: Iterable[int]) -> Client:
        """Fresh keys from the operating system's randomness, for exactly these rotations."""

    def evaluator(self, params: Params, keys: EvalKeys) -> Evaluator:
        """The evaluating side; gets no secret."""

    def load_keys(self, params: Params, folder: Path) -> EvalKeys:
        """Evaluation keys written by ``EvalKeys.save``."""


BACKENDS: dict[str, str] = {
    "clear": "pi_compiler.runtime.clear:ClearBackend",
    "sim": "pi_compiler.runtime.sim:SimBackend",
    "tenseal": "pi_compiler.runtime.tenseal:TensealBackend",
}
"""Name -> "module:Class", imported on demand."""


def get_backend(name: str) -> Backend:
    """The backend of that name, checked to be available.

    Raises:
        ParameterError: there is no such backend.
        BackendUnavailable: its library is missing.
    """
    if name not in BACKENDS:
        raise ParameterError(f"there is no backend {name!r}", f"known: {', '.join(BACKENDS)}")
    module, _, cls = BACKENDS[name].partition(":")
    backend: Backend = getattr(importlib.import_module(module), cls)()
    if (why := backend.available()) is not None:
        raise BackendUnavailable(f"backend {name!r} is not available: {why}")
    return backend
