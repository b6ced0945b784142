"""The meaning of a program: exact arithmetic on slot vectors, nothing encrypted.

Every other backend approximates this one. It keeps the books that CKKS keeps (level, scale,
dimension) and refuses what CKKS would refuse, so running a program here also validates it.

A vector of period p is stored as its p first values: a rotation acts cyclically on them, and in an
operation on two periods the shorter one is repeated. Vectors may carry leading batch dimensions.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi_compiler.errors import ArtifactError, ExecutionError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import CtType
from pi_compiler.runtime import keys as files
from pi_compiler.runtime.backend import SHARED_OPCODES, Capabilities, Ciphertext, EvalKeys, Plaintext, fill
from pi_compiler.runtime.rules import Rules

CAPABILITIES = Capabilities(SHARED_OPCODES, max_log_n=17, max_prime_bits=64, specials=1, encrypted=False, batch=True)


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """What stands for a ciphertext: values (..., period) and their type."""

    values: FloatArray
    type: CtType


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What stands for an encoded plaintext: values (period,)."""

    values: FloatArray
    level: int
    scale: float


@dataclass(frozen=True, slots=True)
class NoKeys:
    """Names the rotations that a program may use; there is nothing in it."""

    rotations: frozenset[int]
    relinearize: bool

    @property
    def nbytes(self) -> int:
        """Nothing."""
        return 0


class ClearPublicKey:
    """Wraps vectors like the client."""

    def __init__(self, client: ClearClient) -> None:
        self._client = client

    def encrypt(self, slots: FloatArray, level: int, scale: float) -> Vector:
        return self._client.encrypt(slots, level, scale)

    def save(self, path: Path) -> int:
        return files.write_sealed(path, lambda name: _write_text(name, "whoever has this can encrypt nothing"))


class ClearClient:
    """Wraps and unwraps vectors."""

    def __init__(self, params: Params, keys: NoKeys) -> None:
        self._params, self._keys = params, keys
        self._rules = Rules(params, keys.rotations, keys.relinearize)

    @property
    def eval_keys(self) -> NoKeys:
        return self._keys

    @property
    def public_key(self) -> ClearPublicKey:
        return ClearPublicKey(self)

    def encrypt(self, slots: FloatArray, level: int, scale: float) -> Vector:
        self._rules.values(slots)
        self._rules.room(level, scale)
        return Vector(np.asarray(slots, np.float64), CtType(level, scale))

    def encrypt_to(self, path: Path, slots: FloatArray, level: int, scale: float) -> int:
        return save_vector(self.encrypt(slots, level, scale), path)

    def decrypt(self, ciphertext: Ciphertext) -> FloatArray:
        return fill(vector(ciphertext).values, self._params.slots)

    def save(self, path: Path) -> None:
        files.write_sealed(path, lambda name: _write_text(name, "nothing is secret here"), private=True)

    def save_eval_keys(self, folder: Path) -> int:
        files.make_folder(folder)
        return files.write_manifest(
            folder, files.manifest("clear", self._params, self._keys.rotations, self._keys.relinearize)
        )

    def save_ciphertext(self, ciphertext: Ciphertext, path: Path) -> int:
        return save_vector(vector(ciphertext), path)

    def load_ciphertext(self, path: Path) -> Vector:
        return load_vector(path)


class ClearEvaluator:
    """Exact arithmetic that keeps CKKS's books."""

    def __init__(self, params: Params, keys: EvalKeys) -> None:
        self._rules = Rules(params, keys.rotations, keys.relinearize)

    def encode(self, values: FloatArray, level: int, scale: float) -> Encoded:
        self._rules.values(values)
        self._rules.room(level, scale)
        return Encoded(np.asarray(values, np.float64), level, scale)

    def plaintext_bytes(self, plaintext: Plaintext) -> int:
        return encoded(plaintext).values.nbytes

    def ciphertext_bytes(self, ciphertext: Ciphertext) -> int:
        return vector(ciphertext).values.nbytes

    def type_of(self, ciphertext: Ciphertext) -> CtType:
        return vector(ciphertext).type

    def save_ciphertext(self, ciphertext: Ciphertext, path: Path) -> int:
        return save_vector(vector(ciphertext), path)

    def load_ciphertext(self, path: Path) -> Vector:
        return load_vector(path)

    def add(self, a: Ciphertext, b: Ciphertext) -> Vector:
        x, y = vector(a), vector(b)
        result = self._rules.add(x.type, y.type)
        u, v = _aligned(x.values, y.values)
        return Vector(_flat(u + v), result)

    def sub(self, a: Ciphertext, b: Ciphertext) -> Vector:
        x, y = vector(a), vector(b)
        result = self._rules.add(x.type, y.type)
        u, v = _aligned(x.values, y.values)
        return Vector(_flat(u - v), result)

    def neg(self, a: Ciphertext) -> Vector:
        x = vector(a)
        return Vector(-x.values, x.type)

    def mul(self, a: Ciphertext, b: Ciphertext) -> Vector:
        x, y = vector(a), vector(b)
        result = self._rules.mul(x.type, y.type)
        u, v = _aligned(x.values, y.values)
        return Vector(_flat(u * v), result)

    def add_plain(self, a: Ciphertext, b: Plaintext) -> Vector:
        x, y = vector(a), encoded(b)
        result = self._rules.add_plain(x.type, y.level, y.scale)
        u, v = _aligned(x.values, y.values)
        return Vector(_flat(u + v), result)

    def mul_plain(self, a: Ciphertext, b: Plaintext) -> Vector:
        x, y = vector(a), encoded(b)
        result = self._rules.mul_plain(x.type, y.level, y.scale)
        u, v = _aligned(x.values, y.values)
        return Vector(_flat(u * v), result)

    def rotate(self, a: Ciphertext, by: int) -> Vector:
        x = vector(a)
        step = self._rules.rotate(x.type, by) % x.values.shape[-1]
        return x if step == 0 else Vector(_rotated(x.values, step), x.type)

    def relinearize(self, a: Ciphertext) -> Vector:
        x = vector(a)
        return Vector(x.values, self._rules.relinearize(x.type))

    def rescale(self, a: Ciphertext, scale: float) -> Vector:
        x = vector(a)
        return Vector(x.values, self._rules.rescale(x.type, scale))

    def drop_level(self, a: Ciphertext, level: int) -> Vector:
        x = vector(a)
        return Vector(x.values, self._rules.drop_level(x.type, level))


class ClearBackend:
    """The exact meaning of a program."""

    name = "clear"
    capabilities = CAPABILITIES

    def available(self) -> str | None:
        return None

    def keygen(
        self, params: Params, rotations: Iterable[int], *, relinearize: bool = True, insecure: bool = False
    ) -> ClearClient:
        return ClearClient(params, NoKeys(files.normalize(rotations, params.slots), relinearize))

    def evaluator(self, params: Params, keys: EvalKeys) -> ClearEvaluator:
        return ClearEvaluator(params, keys)

    def load_keys(self, params: Params, folder: Path, *, insecure: bool = False) -> NoKeys:
        found = files.read_manifest(folder, "clear", params)
        return NoKeys(found.rotations, found.relinearize)

    def load_public_key(self, params: Params, path: Path, *, insecure: bool = False) -> ClearPublicKey:
        files.check_sealed(path, "public key")
        return self.keygen(params, ()).public_key

    def load_client(
        self,
        params: Params,
        path: Path,
        rotations: Iterable[int] = (),
        *,
        relinearize: bool = True,
        insecure: bool = False,
    ) -> ClearClient:
        files.check_sealed(path, "key file")
        return self.keygen(params, rotations, relinearize=relinearize)


def vector(ciphertext: Ciphertext) -> Vector:
    """The ciphertext as this backend made it.

    Raises:
        ExecutionError: another backend made it.
    """
    if not isinstance(ciphertext, Vector):
        raise ExecutionError(f"this backend cannot compute with a {type(ciphertext).__name__}")
    return ciphertext


def encoded(plaintext: Plaintext) -> Encoded:
    """The plaintext as this backend made it.

    Raises:
        ExecutionError: another backend made it.
    """
    if not isinstance(plaintext, Encoded):
        raise ExecutionError(f"this backend cannot compute with a {type(plaintext).__name__}")
    return plaintext


def save_vector(v: Vector, path: Path) -> int:
    """Write a vector; returns the bytes written."""

    def write(name: str) -> None:
        with open(name, "wb") as file:
            np.savez(file, values=v.values, level=v.type.level, scale=v.type.scale, dimension=v.type.dimension)

    return files.write_sealed(path, write)


def load_vector(path: Path) -> Vector:
    """Read a vector.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    files.check_sealed(path, "ciphertext")
    try:
        with np.load(path, allow_pickle=False) as data:
            kind = CtType(int(data["level"]), float(data["scale"]), int(data["dimension"]))
            return Vector(np.asarray(data["values"], np.float64), kind)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{str(path)!r} is not a ciphertext of this backend: {error}") from error


def _write_text(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")


def _rotated(values: FloatArray, step: int) -> FloatArray:
    rest = values.shape[-1] - step
    out = np.empty_like(values)
    out[..., :rest] = values[..., step:]
    out[..., rest:] = values[..., :step]
    return out


def _aligned(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Views in which the longer period is split into (copies, shorter period)."""
    p, q = a.shape[-1], b.shape[-1]
    if p == q:
        return a[..., None, :], b[..., None, :]
    if p < q:
        return a[..., None, :], b.reshape(*b.shape[:-1], q // p, p)
    return a.reshape(*a.shape[:-1], p // q, q), b[..., None, :]


def _flat(values: FloatArray) -> FloatArray:
    return values.reshape(*values.shape[:-2], values.shape[-2] * values.shape[-1])
