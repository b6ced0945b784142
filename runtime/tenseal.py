"""Microsoft SEAL (4.x) through ``tenseal.sealapi``.

TenSEAL's own tensors choose rotations, scales and levels themselves; its low-level binding leaves
them to us. Key switching is SEAL's: one special prime, one digit per prime of the chain. SEAL
holds the interpreter lock while it works, so parallel work wants processes.

Security: the data owner encrypts with the secret key (less noise, and half the size in files).
What comes back is decrypted by the same owner; handing decrypted values to others would need
noise flooding first (Li and Micciancio, 2021), which is not done here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np

try:
    from tenseal import sealapi as seal
except ImportError:
    seal = None

from pi_compiler.errors import ArtifactError, ExecutionError, ParameterError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params, security_bits
from pi_compiler.ir.program import CtType
from pi_compiler.runtime import keys as files
from pi_compiler.runtime.backend import SHARED_OPCODES, Capabilities, Ciphertext, EvalKeys, Plaintext, fill
from pi_compiler.runtime.rules import Rules

_ERRORS = (ValueError, RuntimeError, TypeError, IndexError, MemoryError)
"""What the binding raises for SEAL's invalid_argument, logic_error, out_of_range and so on."""

_ROTATIONS, _RELINEARIZE = "rotations.seal", "relinearize.seal"
_TRANSPARENT = "transparent"


class _Ring:
    """SEAL's context, its encoder, and its name for each level."""

    __slots__ = ("context", "encoder", "ids", "params")

    def __init__(self, params: Params, *, insecure: bool) -> None:
        files.require_secure(params, insecure=insecure)
        if len(params.special) != 1 or params.digit != 1:
            raise ParameterError(
                f"SEAL switches keys with one special prime and one prime a digit, "
                f"not {len(params.special)} and {params.digit}"
            )
        self.params = params
        secure = security_bits(params.log_n, params.log_qp) > 0
        try:
            parms = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
            parms.set_poly_modulus_degree(1 << params.log_n)
            parms.set_coeff_modulus([seal.Modulus(q) for q in (*params.primes, *params.special)])
            level = seal.SEC_LEVEL_TYPE.TC128 if secure else seal.SEC_LEVEL_TYPE.NONE
            self.context = seal.SEALContext(parms, True, level)
        except _ERRORS as error:
            raise ParameterError(f"SEAL refuses these parameters: {error}") from error
        if not self.context.parameters_set():
            raise ParameterError(f"SEAL refuses these parameters: {self.context.parameters_error_message()}")
        self.encoder = seal.CKKSEncoder(self.context)
        self.ids: list[list[int]] = []
        data = self.context.first_context_data()
        while data is not None:
            self.ids.append(list(data.parms_id()))
            data = data.next_context_data()
        self.ids.reverse()

    def galois(self, step: int) -> int:
        """The Galois element whose automorphism brings slot i + step to slot i."""
        return pow(3, step, 2 << self.params.log_n)

    def encode(self, values: FloatArray, level: int, scale: float) -> Plaintext:
        """Values (period,); one value takes the short way without a transform."""
        if values.ndim != 1:
            raise ExecutionError(f"SEAL takes one slot vector at a time, not an array of shape {values.shape}")
        plain = seal.Plaintext()
        content = float(values[0]) if values.size == 1 else fill(values, self.params.slots).tolist()
        try:
            self.encoder.encode(content, self.ids[level], scale, plain)
        except _ERRORS as error:
            largest = float(np.abs(values).max())
            raise ExecutionError(
                f"cannot encode values up to {largest:.3g} at scale {scale:.4g}, level {level}: {error}"
            ) from error
        return plain

    def type_of(self, ciphertext: Ciphertext) -> CtType:
        """Level, scale and dimension."""
        if not isinstance(ciphertext, seal.Ciphertext):
            raise ExecutionError(f"SEAL cannot compute with a {type(ciphertext).__name__}")
        return CtType(ciphertext.coeff_modulus_size() - 1, ciphertext.scale, ciphertext.size())

    def save(self, ciphertext: Ciphertext, path: Path) -> int:
        """Write a ciphertext."""
        if not isinstance(ciphertext, seal.Ciphertext):
            raise ExecutionError(f"SEAL cannot save a {type(ciphertext).__name__}")
        return files.write_sealed(path, ciphertext.save)

    def load(self, path: Path) -> Ciphertext:
        """Read a ciphertext."""
        ciphertext = seal.Ciphertext()
        _load(self, ciphertext, path, "ciphertext")
        return ciphertext


class TensealKeys:
    """SEAL's rotation and relinearization keys; public, and nothing else in it."""

    __slots__ = ("_rotations", "galois", "relin", "ring")

    def __init__(self, ring: _Ring, rotations: frozenset[int], galois: object | None, relin: object | None) -> None:
        self.ring, self.galois, self.relin = ring, galois, relin
        self._rotations = rotations

    @property
    def rotations(self) -> frozenset[int]:
        return self._rotations

    @property
    def relinearize(self) -> bool:
        return self.relin is not None

    @property
    def nbytes(self) -> int:
        return (len(self._rotations) + self.relinearize) * key_bytes(self.ring.params)


class TensealPublicKey:
    """SEAL's public key; nothing in it is secret."""

    def __init__(self, ring: _Ring, key: seal.PublicKey) -> None:
        self._ring, self._key = ring, key
        self._encryptor = seal.Encryptor(ring.context, key)
        self._rules = Rules(ring.params, frozenset(), False)

    def encrypt(self, slots: FloatArray, level: int, scale: float) -> Ciphertext:
        self._rules.values(slots)
        self._rules.room(level, scale)
        ciphertext = seal.Ciphertext()
        self._encryptor.encrypt(self._ring.encode(slots, level, scale), ciphertext)
        return ciphertext

    def save(self, path: Path) -> int:
        return files.write_sealed(path, self._key.save)


class TensealClient:
    """The data owner's side."""

    def __init__(self, ring: _Ring, secret: seal.SecretKey, rotations: frozenset[int], relinearize: bool) -> None:
        self._ring, self._secret = ring, secret
        self._rotations, self._relinearize = rotations, relinearize
        self._encryptor = seal.Encryptor(ring.context, secret)
        self._decryptor = seal.Decryptor(ring.context, secret)
        self._rules = Rules(ring.params, rotations, relinearize)
        self._keys: TensealKeys | None = None
        self._public: TensealPublicKey | None = None

    @property
    def eval_keys(self) -> TensealKeys:
        if self._keys is None:
            self._keys = self._make_keys()
        return self._keys

    @property
    def public_key(self) -> TensealPublicKey:
        if self._public is None:
            key = seal.PublicKey()
            seal.KeyGenerator(self._ring.context, self._secret).create_public_key(key)
            self._public = TensealPublicKey(self._ring, key)
        return self._public

    def _make_keys(self) -> TensealKeys:
        generator = seal.KeyGenerator(self._ring.context, self._secret)
        galois = relin = None
        if self._rotations:
            galois = seal.GaloisKeys()
            generator.create_galois_keys(self._elements(), galois)
        if self._relinearize:
            relin = seal.RelinKeys()
            generator.create_relin_keys(relin)
        return TensealKeys(self._ring, self._rotations, galois, relin)

    def _elements(self) -> list[int]:
        return [self._ring.galois(step) for step in sorted(self._rotations)]

    def save_eval_keys(self, folder: Path) -> int:
        # Without an output argument SEAL leaves the uniform half of each key as a seed.
        generator = seal.KeyGenerator(self._ring.context, self._secret)
        files.make_folder(folder)
        written = 0
        if self._rotations:
            keys = generator.create_galois_keys(self._elements())
            written += files.write_sealed(folder / _ROTATIONS, keys.save)
        if self._relinearize:
            written += files.write_sealed(folder / _RELINEARIZE, generator.create_relin_keys().save)
        manifest = files.manifest("tenseal", self._ring.params, self._rotations, self._relinearize)
        return written + files.write_manifest(folder, manifest)

    def _encode(self, slots: FloatArray, level: int, scale: float) -> Plaintext:
        self._rules.values(slots)
        self._rules.room(level, scale)
        return self._ring.encode(slots, level, scale)

    def encrypt(self, slots: FloatArray, level: int, scale: float) -> Ciphertext:
        ciphertext = seal.Ciphertext()
        self._encryptor.encrypt_symmetric(self._encode(slots, level, scale), ciphertext)
        return ciphertext

    def encrypt_to(self, path: Path, slots: FloatArray, level: int, scale: float) -> int:
        short = self._encryptor.encrypt_symmetric(self._encode(slots, level, scale))
        return files.write_sealed(path, short.save)

    def decrypt(self, ciphertext: Ciphertext) -> FloatArray:
        plain = seal.Plaintext()
        try:
            self._decryptor.decrypt(ciphertext, plain)
            return np.array(self._ring.encoder.decode_double(plain), np.float64)
        except _ERRORS as error:
            raise ExecutionError(f"cannot decrypt: {error}") from error

    def save(self, path: Path) -> None:
        files.write_sealed(path, self._secret.save, private=True)

    def save_ciphertext(self, ciphertext: Ciphertext, path: Path) -> int:
        return self._ring.save(ciphertext, path)

    def load_ciphertext(self, path: Path) -> Ciphertext:
        return self._ring.load(path)


class TensealEvaluator:
    """The evaluating side: a context and public keys."""

    def __init__(self, keys: TensealKeys) -> None:
        self._ring, self._galois, self._relin = keys.ring, keys.galois, keys.relin
        self._evaluator = seal.Evaluator(keys.ring.context)
        self._rules = Rules(keys.ring.params, keys.rotations, keys.relinearize)
        self._elements = {step: keys.ring.galois(step) for step in keys.rotations}
        self._type_of = keys.ring.type_of

    def encode(self, values: FloatArray, level: int, scale: float) -> Plaintext:
        self._rules.values(values)
        self._rules.room(level, scale)
        return self._ring.encode(values, level, scale)

    def plaintext_bytes(self, plaintext: Plaintext) -> int:
        return 8 * int(_plain(plaintext).capacity())

    def ciphertext_bytes(self, ciphertext: Ciphertext) -> int:
        x = _cipher(ciphertext)
        # Capacity: relinearization keeps the memory of the third polynomial.
        return int(x.size_capacity() * x.coeff_modulus_size()) << (self._ring.params.log_n + 3)

    def type_of(self, ciphertext: Ciphertext) -> CtType:
        return self._type_of(ciphertext)

    def save_ciphertext(self, ciphertext: Ciphertext, path: Path) -> int:
        return self._ring.save(ciphertext, path)

    def load_ciphertext(self, path: Path) -> Ciphertext:
        return self._ring.load(path)

    def add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        self._align(a, b)
        out = seal.Ciphertext()
        try:
            self._evaluator.add(a, b, out)
        except _ERRORS as error:
            _fail(error)
        return out

    def sub(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        self._align(a, b)
        out = seal.Ciphertext()
        try:
            self._evaluator.sub(a, b, out)
        except _ERRORS as error:
            _fail(error)
        return out

    def _align(self, a: Ciphertext, b: Ciphertext) -> None:
        """Check the operands of a sum; SEAL wants equal scales to the last bit."""
        x, y = self._type_of(a), self._type_of(b)
        self._rules.add(x, y)
        if x.scale != y.scale:
            _cipher(b).scale = x.scale

    def neg(self, a: Ciphertext) -> Ciphertext:
        out = seal.Ciphertext()
        try:
            self._evaluator.negate(a, out)
        except _ERRORS as error:
            _fail(error)
        return out

    def mul(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        x = self._type_of(a)
        self._rules.mul(x, x if a is b else self._type_of(b))
        out = seal.Ciphertext()
        try:
            if a is b:
                self._evaluator.square(a, out)
            else:
                self._evaluator.multiply(a, b, out)
        except _ERRORS as error:
            _fail(error)
        return out

    def add_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext:
        x, y = self._type_of(a), _plain(b)
        self._rules.add_plain(x, self._plain_level(y), y.scale)
        if x.scale != y.scale:
            y.scale = x.scale
        out = seal.Ciphertext()
        try:
            self._evaluator.add_plain(a, y, out)
        except _ERRORS as error:
            _fail(error)
        return out

    def mul_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext:
        x, y = self._type_of(a), _plain(b)
        level = self._plain_level(y)
        self._rules.mul_plain(x, level, y.scale)
        out = seal.Ciphertext()
        try:
            self._evaluator.multiply_plain(a, y, out)
        except _ERRORS as error:
            if _TRANSPARENT not in str(error) or not y.is_zero():
                _fail(error)
            # SEAL refuses to multiply by zero, because the product would hide nothing. One unit
            # in the last place instead of zero is what encoding may be off by anyway.
            unit = self._ring.encode(np.array([1.0 / y.scale]), level, y.scale)
            self._evaluator.multiply_plain(a, unit, out)
        return out

    def _plain_level(self, plain: seal.Plaintext) -> int:
        return int(plain.coeff_count() >> self._ring.params.log_n) - 1

    def rotate(self, a: Ciphertext, by: int) -> Ciphertext:
        step = self._rules.rotate(self._type_of(a), by)
        if step == 0:
            return a
        out = seal.Ciphertext()
        try:
            self._evaluator.apply_galois(a, self._elements[step], self._galois, out)
        except _ERRORS as error:
            _fail(error)
        return out

    def relinearize(self, a: Ciphertext) -> Ciphertext:
        self._rules.relinearize(self._type_of(a))
        out = seal.Ciphertext()
        try:
            self._evaluator.relinearize(a, self._relin, out)
        except _ERRORS as error:
            _fail(error)
        return out

    def rescale(self, a: Ciphertext, scale: float) -> Ciphertext:
        self._rules.rescale(self._type_of(a), scale)
        out = seal.Ciphertext()
        try:
            self._evaluator.rescale_to_next(a, out)
        except _ERRORS as error:
            _fail(error)
        out.scale = scale
        return out

    def drop_level(self, a: Ciphertext, level: int) -> Ciphertext:
        x = self._type_of(a)
        self._rules.drop_level(x, level)
        out = a
        for _ in range(x.level - level):
            # One by one: mod_switch_to copies the whole chain first and keeps its memory.
            before, out = out, seal.Ciphertext()
            try:
                self._evaluator.mod_switch_to_next(before, out)
            except _ERRORS as error:
                _fail(error)
        return out


class TensealBackend:
    """Microsoft SEAL. Its parameter check knows ring degrees up to 2^15 at 128 bits."""

    name = "tenseal"
    capabilities = Capabilities(
        SHARED_OPCODES, max_log_n=15, max_prime_bits=60, specials=1, encrypted=True, batch=False
    )

    def available(self) -> str | None:
        return "tenseal is not installed (pip install 'pi-compiler[tenseal]')" if seal is None else None

    def keygen(
        self, params: Params, rotations: Iterable[int], *, relinearize: bool = True, insecure: bool = False
    ) -> TensealClient:
        ring = _Ring(params, insecure=insecure)
        secret = seal.KeyGenerator(ring.context).secret_key()
        return TensealClient(ring, secret, files.normalize(rotations, params.slots), relinearize)

    def evaluator(self, params: Params, keys: EvalKeys) -> TensealEvaluator:
        if not isinstance(keys, TensealKeys):
            raise ExecutionError(f"SEAL cannot use keys of type {type(keys).__name__}")
        if keys.ring.params != params:
            raise ExecutionError("the keys are for other parameters", hint="keys made for this model")
        return TensealEvaluator(keys)

    def load_keys(self, params: Params, folder: Path, *, insecure: bool = False) -> TensealKeys:
        ring = _Ring(params, insecure=insecure)
        found = files.read_manifest(folder, "tenseal", params)
        galois = relin = None
        if found.rotations:
            galois = seal.GaloisKeys()
            _load(ring, galois, folder / _ROTATIONS, "rotation keys")
        if found.relinearize:
            relin = seal.RelinKeys()
            _load(ring, relin, folder / _RELINEARIZE, "relinearization key")
        missing = 0
        if galois is not None:
            missing = sum(not galois.has_key(ring.galois(step)) for step in found.rotations)
        if missing:
            raise ArtifactError(f"{str(folder)!r} lacks {missing} of the rotation keys that it lists")
        return TensealKeys(ring, found.rotations, galois, relin)

    def load_public_key(self, params: Params, path: Path, *, insecure: bool = False) -> TensealPublicKey:
        ring = _Ring(params, insecure=insecure)
        key = seal.PublicKey()
        _load(ring, key, path, "public key")
        return TensealPublicKey(ring, key)

    def load_client(
        self,
        params: Params,
        path: Path,
        rotations: Iterable[int] = (),
        *,
        relinearize: bool = True,
        insecure: bool = False,
    ) -> TensealClient:
        ring = _Ring(params, insecure=insecure)
        secret = seal.SecretKey()
        _load(ring, secret, path, "secret key")
        return TensealClient(ring, secret, files.normalize(rotations, params.slots), relinearize)


def key_bytes(params: Params) -> int:
    """Memory of one rotation or relinearization key: a pair of polynomials per prime of the chain."""
    digits = len(params.primes)
    return 8 * digits * 2 * (digits + 1) << params.log_n


def _load(ring: _Ring, into: seal.Ciphertext, path: Path, what: str) -> None:
    files.check_sealed(path, what)
    try:
        into.load(ring.context, str(path))
    except _ERRORS as error:
        raise ArtifactError(
            f"{str(path)!r} is not a {what} for these parameters: {error}", hint="keys made for this model"
        ) from error


def _cipher(ciphertext: Ciphertext) -> seal.Ciphertext:
    if not isinstance(ciphertext, seal.Ciphertext):
        raise ExecutionError(f"SEAL cannot compute with a {type(ciphertext).__name__}")
    return ciphertext


def _plain(plaintext: Plaintext) -> seal.Plaintext:
    if not isinstance(plaintext, seal.Plaintext):
        raise ExecutionError(f"SEAL cannot compute with a {type(plaintext).__name__}")
    return plaintext


def _fail(error: Exception) -> NoReturn:
    text = str(error)
    if _TRANSPARENT in text:
        raise ExecutionError("the result is zero whatever the input, such as a value minus itself") from error
    raise ExecutionError(f"SEAL: {text}") from error
