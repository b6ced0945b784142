"""What encryption would add: exact arithmetic plus the noise of CKKS, without its cost.

Noise is Gaussian, independent between operations and slots, with the variances below, for the
real part of a slot, in units of 1/scale. They follow from the algorithms of CKKS in residue form
(Cheon, Han, Kim, Kim and Song, "A full RNS variant of approximate homomorphic encryption", 2018)
as SEAL implements them. A polynomial with independent coefficients of variance v has slots whose
real part has variance v N/2. The secret s is uniform ternary, so |s|^2 = 2N/3 =: h.

encode    A real vector of period p is a polynomial in X^(N/2p) with c_(2p-k) = -c_k, so p roundings
          of variance 1/12 are free: (1 + 4/2 (p - 1)) / 12 = (2p - 1) / 12, itself periodic.
encrypt   Centered binomial of variance 21/2 (SEAL's sampler; standard deviation 3.24): 21/2 N/2.
public    Encryption by the public key rounds as rescaling does; the errors that it divides by P are far below.
rescale   Rounds each polynomial to nearest, and the i-th is multiplied by s^i to decrypt:
          (1 + h) / 12 N/2; in dimension 3 another 2h^2 / 12 N/2, since E|s(z)|^4 = 2h^2.
switch    A rotation or relinearization at level l multiplies the digits d_j in [0, q_j) by errors
          e_j of variance 21/2 and divides by the special prime P, rounding as rescale does. Digits
          are not centered: besides the uniform part, q_j^2/12, there is a constant polynomial
          q_j/2 (1 + X + ...), which is 1/(1 - z) large at the root z that belongs to a slot:
          21/2 N/2 sum_j q_j^2/P^2 (N/12 + 1/|1 - z|^2) + (1 + h) / 12 N/2.
          (With several primes in a digit it is below their product, and P the special primes' product.)
          Slots 0 and 1, whose roots lie next to 1, get up to sqrt(12N)/pi times the noise of the
          others, and under one key always the same; only P far above all q_j hides that.

Averages: with a fixed secret the rounding noise of a slot is |s(z)|^2/h times the above, which is
exponentially distributed over slots; its largest values over all slots are those of a Laplace
variable. A periodic vector keeps one draw per slot of its period although noise is not periodic;
sums of its copies (which a program has no reason to form) would be too noisy. What lies below
2^-12 of a rounding at the nominal scale is left out.

``tests/runtime/test_noise.py`` compares each of these with SEAL.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import ExecutionError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import CtType
from pi_compiler.runtime.backend import Ciphertext, EvalKeys, Plaintext
from pi_compiler.runtime.clear import CAPABILITIES, ClearBackend, ClearClient, ClearEvaluator, Encoded, NoKeys, Vector
from pi_compiler.runtime.clear import encoded as as_encoded
from pi_compiler.runtime.clear import vector as as_vector

ERROR_VARIANCE = 21 / 2
"""Variance of a coefficient of an encryption error."""

NEGLIGIBLE = 2.0**-12

OnWrap = Literal["error", "nan"]
"""What happens to a value that exceeds its modulus: an error, or that sample becomes NaN."""


class Noise:
    """Standard deviations of a slot's real part, in units of 1/scale."""

    __slots__ = ("_params", "_root", "_rounding")

    def __init__(self, params: Params) -> None:
        n = 1 << params.log_n
        h = 2 * n / 3
        self._params = params
        self._rounding = {2: (1 + h) * n / 24, 3: (1 + h + 2 * h * h) * n / 24}
        self._root = _near_one(params.log_n)

    def encode(self, period: int) -> float:
        """Rounding of a plaintext of this period."""
        return math.sqrt((2 * period - 1) / 12)

    def encrypt(self) -> float:
        """A fresh encryption under the secret key."""
        return math.sqrt(ERROR_VARIANCE * (1 << self._params.log_n) / 2)

    def rescale(self, dimension: int = 2) -> float:
        """Rounding after the division by a prime."""
        return math.sqrt(self._rounding[dimension])

    def switch(self, level: int, period: int) -> FloatArray:
        """A rotation or relinearization, per slot of a period (the copies' mean)."""
        n = 1 << self._params.log_n
        special = math.prod(self._params.special)
        ratio = sum((math.prod(digit) / special) ** 2 for digit in self._params.digits(level))
        root = self._root.reshape(-1, period).mean(axis=0)
        variance = ERROR_VARIANCE * n / 2 * ratio * (n / 12 + root) + self._rounding[2]
        return np.asarray(np.sqrt(variance), np.float64)


class SimPublicKey:
    """Adds the noise of encryption by a public key."""

    def __init__(self, client: SimClient) -> None:
        self._client = client

    def encrypt(self, slots: FloatArray, level: int, scale: float) -> Vector:
        return self._client.noisy(slots, level, scale, self._client.noise.rescale())

    def save(self, path: Path) -> int:
        return self._client.clear.public_key.save(path)


class SimClient:
    """Adds the noise of encryption."""

    def __init__(self, params: Params, clear: ClearClient, generator: np.random.Generator, on_wrap: OnWrap) -> None:
        self._params, self.clear, self._generator, self._on_wrap = params, clear, generator, on_wrap
        self.noise = Noise(params)

    @property
    def eval_keys(self) -> NoKeys:
        return self.clear.eval_keys

    @property
    def public_key(self) -> SimPublicKey:
        return SimPublicKey(self)

    def encrypt(self, slots: FloatArray, level: int, scale: float) -> Vector:
        return self.noisy(slots, level, scale, self.noise.encrypt())

    def noisy(self, slots: FloatArray, level: int, scale: float, encryption: float) -> Vector:
        """A vector with the noise of encoding and, of this standard deviation, of encryption."""
        fresh = self.clear.encrypt(slots, level, scale)
        std = math.hypot(encryption, self.noise.encode(slots.shape[-1])) / scale
        noise = _draw(self._generator, fresh.values.shape, std)
        return Vector(fresh.values + noise, fresh.type)

    def encrypt_to(self, path: Path, slots: FloatArray, level: int, scale: float) -> int:
        return self.clear.save_ciphertext(self.encrypt(slots, level, scale), path)

    def decrypt(self, ciphertext: Ciphertext) -> FloatArray:
        v = as_vector(ciphertext)
        return self.clear.decrypt(_unwrapped(self._params, v, v.type.level, self._on_wrap))

    def save(self, path: Path) -> None:
        self.clear.save(path)

    def save_eval_keys(self, folder: Path) -> int:
        return self.clear.save_eval_keys(folder)

    def save_ciphertext(self, ciphertext: Ciphertext, path: Path) -> int:
        return self.clear.save_ciphertext(ciphertext, path)

    def load_ciphertext(self, path: Path) -> Vector:
        return self.clear.load_ciphertext(path)


class SimEvaluator:
    """Exact arithmetic, then the operation's noise."""

    def __init__(self, params: Params, keys: EvalKeys, generator: np.random.Generator, on_wrap: OnWrap) -> None:
        self._params, self._generator, self._on_wrap = params, generator, on_wrap
        self._clear = ClearEvaluator(params, keys)
        self._noise = Noise(params)
        self._floor = NEGLIGIBLE * self._noise.rescale() / params.scale
        self._switch: dict[tuple[int, int], tuple[FloatArray, float]] = {}

    def encode(self, values: FloatArray, level: int, scale: float) -> Encoded:
        plain = self._clear.encode(values, level, scale)
        if plain.values.size == 1:
            return Encoded(np.rint(plain.values * scale) / scale, level, scale)
        if not plain.values.any():
            return plain
        noise = _draw(self._generator, plain.values.shape, self._noise.encode(plain.values.size) / scale)
        return Encoded(plain.values + noise, level, scale)

    def plaintext_bytes(self, plaintext: Plaintext) -> int:
        return self._clear.plaintext_bytes(as_encoded(plaintext))

    def ciphertext_bytes(self, ciphertext: Ciphertext) -> int:
        return self._clear.ciphertext_bytes(ciphertext)

    def type_of(self, ciphertext: Ciphertext) -> CtType:
        return self._clear.type_of(ciphertext)

    def save_ciphertext(self, ciphertext: Ciphertext, path: Path) -> int:
        return self._clear.save_ciphertext(ciphertext, path)

    def load_ciphertext(self, path: Path) -> Vector:
        return self._clear.load_ciphertext(path)

    def add(self, a: Ciphertext, b: Ciphertext) -> Vector:
        return self._clear.add(a, b)

    def sub(self, a: Ciphertext, b: Ciphertext) -> Vector:
        return self._clear.sub(a, b)

    def neg(self, a: Ciphertext) -> Vector:
        return self._clear.neg(a)

    def mul(self, a: Ciphertext, b: Ciphertext) -> Vector:
        return self._clear.mul(a, b)

    def add_plain(self, a: Ciphertext, b: Plaintext) -> Vector:
        return self._clear.add_plain(a, b)

    def mul_plain(self, a: Ciphertext, b: Plaintext) -> Vector:
        return self._clear.mul_plain(a, b)

    def rotate(self, a: Ciphertext, by: int) -> Vector:
        rotated = self._clear.rotate(a, by)
        return rotated if by % self._params.slots == 0 else self._switched(rotated)

    def relinearize(self, a: Ciphertext) -> Vector:
        return self._switched(self._clear.relinearize(a))

    def rescale(self, a: Ciphertext, scale: float) -> Vector:
        v = as_vector(a)
        result = self._clear.rescale(_unwrapped(self._params, v, v.type.level, self._on_wrap), scale)
        std = self._noise.rescale(v.type.dimension) / scale
        return Vector(result.values + _draw(self._generator, result.values.shape, std), result.type)

    def drop_level(self, a: Ciphertext, level: int) -> Vector:
        return _unwrapped(self._params, self._clear.drop_level(a, level), level, self._on_wrap)

    def _switched(self, v: Vector) -> Vector:
        key = (v.type.level, v.values.shape[-1])
        if key not in self._switch:
            std = self._noise.switch(*key)
            self._switch[key] = (std.astype(np.float32), float(std.max()))
        std, largest = self._switch[key]
        if largest < self._floor * v.type.scale:
            return v
        noise = self._generator.standard_normal(v.values.shape, np.float32)
        noise *= std * np.float32(1 / v.type.scale)
        return Vector(v.values + noise, v.type)


class SimBackend:
    """Clear values with CKKS noise.

    Args:
        seed: of the noise; from the operating system if None. The noise protects nothing.
        on_wrap: what happens to a value that outgrows its modulus.
    """

    name = "sim"
    capabilities = CAPABILITIES

    def __init__(self, seed: int | None = None, on_wrap: OnWrap = "error") -> None:
        self._generator = np.random.Generator(np.random.SFC64(seed))
        self._on_wrap = on_wrap
        self._clear = ClearBackend()

    def available(self) -> str | None:
        return None

    def keygen(
        self, params: Params, rotations: Iterable[int], *, relinearize: bool = True, insecure: bool = False
    ) -> SimClient:
        clear = self._clear.keygen(params, rotations, relinearize=relinearize, insecure=insecure)
        return SimClient(params, clear, self._generator, self._on_wrap)

    def evaluator(self, params: Params, keys: EvalKeys) -> SimEvaluator:
        return SimEvaluator(params, keys, self._generator, self._on_wrap)

    def load_keys(self, params: Params, folder: Path, *, insecure: bool = False) -> NoKeys:
        return self._clear.load_keys(params, folder, insecure=insecure)

    def load_public_key(self, params: Params, path: Path, *, insecure: bool = False) -> SimPublicKey:
        self._clear.load_public_key(params, path)
        return self.keygen(params, ()).public_key

    def load_client(
        self,
        params: Params,
        path: Path,
        rotations: Iterable[int] = (),
        *,
        relinearize: bool = True,
        insecure: bool = False,
    ) -> SimClient:
        clear = self._clear.load_client(params, path, rotations, relinearize=relinearize, insecure=insecure)
        return SimClient(params, clear, self._generator, self._on_wrap)


def _draw(generator: np.random.Generator, shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
    noise = generator.standard_normal(shape, np.float32)
    noise *= np.float32(std)
    return noise


@lru_cache(maxsize=8)
def _near_one(log_n: int) -> FloatArray:
    """1/|1 - z|^2 per slot, z = exp(i pi 3^j / N) the root that belongs to slot j."""
    return 0.25 / np.sin(math.pi * _exponents(1 << (log_n - 1)) / (2 << log_n)) ** 2


def _exponents(slots: int) -> FloatArray:
    """3^j mod 4 slots, as floats."""
    powers = np.empty(slots)
    power = 1
    for j in range(slots):
        powers[j] = power
        power = 3 * power % (4 * slots)
    return powers


def _unwrapped(params: Params, v: Vector, level: int, on_wrap: OnWrap) -> Vector:
    """The vector, if its polynomial's coefficients stay below half the modulus.

    No coefficient exceeds the largest slot; only where that is not enough are they computed.
    """
    bits = sum(math.log2(q) for q in params.primes[: level + 1]) - 1 - math.log2(v.type.scale)
    limit = 2.0 ** min(bits, 1000.0)
    values = v.values
    if -limit < values.min() and values.max() < limit:
        return v
    rows = values.reshape(-1, values.shape[-1])
    large = np.flatnonzero(np.abs(rows).max(axis=1) >= limit)
    wrapped = large[np.abs(_coefficients(rows[large])).max(axis=1) >= limit] if large.size else large
    if not wrapped.size:
        return v
    if on_wrap == "error":
        share = f" in {wrapped.size} of {len(rows)} samples" if len(rows) > 1 else ""
        raise ExecutionError(
            f"a value wraps around its modulus at level {level}{share}",
            f"largest value {np.abs(rows[wrapped]).max():.4g}, at this scale the modulus holds {limit:.4g}",
            hint="calibration data as wide as the real data, or more bits of head-room in q_0",
        )
    out = rows.copy()
    out[wrapped] = np.nan
    return Vector(out.reshape(values.shape), v.type)


def _coefficients(rows: FloatArray) -> FloatArray:
    """Coefficients (rows, 2 period) of the polynomials in X^(N / 2 period) that the rows encode."""
    period = rows.shape[-1]
    exponents = _exponents(period).astype(np.int64)
    spectrum = np.empty((len(rows), 2 * period))
    spectrum[:, (exponents - 1) // 2] = rows
    spectrum[:, (4 * period - exponents - 1) // 2] = rows
    twist = np.exp(-1j * math.pi * np.arange(2 * period) / (2 * period))
    return np.asarray((np.fft.fft(spectrum, axis=-1) * twist).real / (2 * period), np.float64)
