"""The native backend against big integers, against its own plain path, and against SEAL on the same primes."""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import struct
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.errors import ArtifactError, ExecutionError, ParameterError, PiError
from pi_compiler.ir.params import Params, make_params, ntt_primes
from pi_compiler.ir.program import Opcode
from pi_compiler.runtime import keys as files
from pi_compiler.runtime.executor import execute, prepare
from pi_compiler.runtime.fuse import fuse
from pi_compiler.runtime.native import NativeBackend
from pi_compiler.runtime.native.evaluator import NativeEvaluator
from pi_compiler.runtime.native.material import NativeCiphertext, NativeKeys, core, core_error
from pi_compiler.runtime.sim import Noise

pytestmark = pytest.mark.skipif(core_error() is not None, reason="the native module is not built")

KERNELS = core.instruction_sets() if core is not None else []
HAS_TENSEAL = importlib.util.find_spec("tenseal") is not None


@cache
def ring(log_n: int, bits: tuple[int, ...], specials: int, kernels: str, digit: int = 0) -> tuple[object, list[int]]:
    primes: list[int] = []
    for b in bits:
        primes += ntt_primes(log_n, b, 1, primes)
    return core.Ring(log_n, primes, specials, 1, kernels, digit), primes


def random_limbs(primes: list[int], polys: int, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([[rng.integers(0, q, n, np.uint64) for q in primes] for _ in range(polys)])


def bits_for(kernels: str) -> st.SearchStrategy[list[int]]:
    largest = 59 if kernels == "portable" else 49
    return st.lists(st.integers(20, largest), min_size=2, max_size=5)


def composed(rows: np.ndarray, primes: list[int]) -> list[int]:
    """Centered big integers of coefficients (limbs, n)."""
    modulus = math.prod(primes)
    units = [modulus // q * pow(modulus // q, -1, q) for q in primes]
    found = []
    for column in rows.T.tolist():
        x = sum(r * u for r, u in zip(column, units, strict=True)) % modulus
        found.append(x - modulus if x > modulus // 2 else x)
    return found


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_transforms_invert_each_other_and_multiply_polynomials(kernels: str, data: st.DataObject) -> None:
    log_n = data.draw(st.integers(10, 13))
    r, primes = ring(log_n, tuple(data.draw(bits_for(kernels))), 1, kernels)
    chain = primes[:-1]
    n, level = 1 << log_n, len(chain) - 1
    x = random_limbs(chain, 1, n, data.draw(st.integers(0, 99)))
    a = r.load(1, 1, level, False, x)
    r.ntt(a)
    assert all(np.asarray(a)[0, i].max() < q for i, q in enumerate(chain))
    # X^k is a monomial: the product is a rotation with a sign.
    k = data.draw(st.integers(0, n - 1))
    monomial = np.zeros((1, len(chain), n), np.uint64)
    monomial[:, :, k] = 1
    m, z, zero = r.load(1, 1, level, False, monomial), r.empty(1, level, False), r.empty(1, level, False)
    r.ntt(m)
    r.mul_add(z, 0, a, 0, m, 0, zero, 0)
    r.intt(z)
    r.intt(a)
    np.testing.assert_array_equal(np.asarray(a), x)
    for i, q in enumerate(chain):
        shifted = np.roll(x[0, i], k)
        shifted[:k] = (q - shifted[:k]) % q
        np.testing.assert_array_equal(np.asarray(z)[0, i], shifted)


def largest_prime(log_n: int, bits: int) -> int:
    step = 2 << log_n
    return next(q for q in range((1 << bits) - step + 1, 0, -step) if pow(3, q - 1, q) == 1 == pow(5, q - 1, q))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("log_n", range(10, 17))
def test_transforms_of_every_size_invert_each_other_at_the_extremes(kernels: str, log_n: int) -> None:
    primes = [largest_prime(log_n, 60 if kernels == "portable" else 50), *ntt_primes(log_n, 30, 2)]
    r = core.Ring(log_n, primes, 1, 1, kernels)
    assert r.kernels == kernels
    highest = np.stack([np.full(1 << log_n, q - 1, np.uint64) for q in primes[:2]])[None]
    alternating = highest * (np.arange(1 << log_n) % 2).astype(np.uint64)
    middle = np.stack([np.full(1 << log_n, q // 2, np.uint64) for q in primes[:2]])[None]
    for x in (highest, alternating, middle, random_limbs(primes[:2], 1, 1 << log_n, log_n)):
        a = r.load(1, 1, 1, False, x)
        for transform, inverse in ((r.ntt, r.intt), (r.intt, r.ntt)):
            transform(a)
            assert all(np.asarray(a)[0, i].max() < q for i, q in enumerate(primes[:2]))
            inverse(a)
            np.testing.assert_array_equal(np.asarray(a), x)


@pytest.mark.skipif(len(KERNELS) < 2, reason="one instruction set only")
@settings(max_examples=15, deadline=None)
@given(level=st.integers(1, 20), specials=st.integers(1, 4), digit=st.integers(1, 20), seed=st.integers(0, 99))
def test_all_instruction_sets_give_the_same_residues(level: int, specials: int, digit: int, seed: int) -> None:
    bits = (*((40, 25, 49, 30)[i % 4] for i in range(level + 1)), *(45, 49, 45, 45)[:specials])
    results = []
    for kernels in KERNELS:
        r, primes = ring(11, bits, specials, kernels, digit)
        chain = primes[: level + 1]
        a = r.load(2, 2, level, False, random_limbs(chain, 2, 2048, seed))
        b = r.load(3, 3, level, False, random_limbs(chain, 3, 2048, seed + 1))
        digits = r.digits(level)
        k = r.load(2 * digits, 2 * digits, level, True, random_limbs(primes, 2 * digits, 2048, seed + 2))
        values = np.random.default_rng(seed).uniform(-1, 1, 1 << seed % 11)
        plain = r.encode(values, 2.0**30, level, True)
        late = r.encode(values, 2.0**30, level, True, True)
        number, negative = (r.encode(np.full(1, v), 2.0**30, level, True) for v in (values[0], -1.0))
        d = r.decompose(a)
        extended = r.rotate_extended(a, d, k, 9)
        found = [r.rotate(a, d, k, 3), r.rescale(b), r.mul(a, a), r.mul_plain(b, plain), r.add_plain(a, plain)]
        first, again = r.rotate_first(a, k, 3)
        found += [first, r.rotate(a, again, k, 3)]
        for z in (first, found[-1]):
            np.testing.assert_array_equal(np.asarray(z), np.asarray(found[0]))
        found += [r.relinearize(b, k), r.add(a, b), r.sub(a, b), r.neg(b), r.drop(b, 0), extended]
        found.append(r.linear_sum([([(a, plain), (extended, plain)], None, 1), ([(extended, plain)], k, 27)], level))
        found.append(r.linear_sum([([(a, late), (extended, plain)], None, 1), ([(a, late)], k, 27)], level))
        found += [r.mul_plain(b, number), r.add_plain(a, number), r.mul_plain(extended, negative)]
        mixed = [(a, number), (extended, plain), (a, plain), (extended, number)]
        found.append(r.linear_sum([(mixed, None, 1), ([(a, negative), (a, late)], k, 27)], level))
        found += r.linear_sums([a, found[4], a], [[number, negative, number], [negative, number, number]], level)
        results.append([np.asarray(x).copy() for x in found])
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_rescaling_rounds_to_the_nearest_integer(kernels: str, data: st.DataObject) -> None:
    r, primes = ring(10, (*data.draw(bits_for(kernels)), 30), 1, kernels)
    chain = primes[:-1]
    level = len(chain) - 1
    x = random_limbs(chain, 1, 1024, data.draw(st.integers(0, 99)))
    a = r.load(1, 1, level, False, x)
    r.ntt(a)
    z = r.rescale(a)
    r.intt(z)
    found = composed(np.asarray(z)[0], chain[:-1])
    last, rest = chain[-1], math.prod(chain[:-1])
    for big, small in zip(composed(x[0], chain), found, strict=True):
        off = (2 * (big - small * last)) % (2 * last * rest)
        assert min(off, 2 * last * rest - off) <= last + 1


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=15, deadline=None)
@given(level=st.integers(0, 6), digit=st.integers(1, 20), specials=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_digit_carried_to_all_primes_is_the_same_centered_integer(
    kernels: str, level: int, digit: int, specials: int, seed: int
) -> None:
    """Key (1, 0) for digit 0 makes key switching return that digit, times 1 and over P."""
    r, primes = ring(10, (30,) * (level + 1) + (36,) * specials, specials, kernels, digit)
    chain = primes[: level + 1]
    x = random_limbs(chain, 3, 1024, seed)
    x[:2] = 0
    a = r.load(3, 3, level, False, x)
    r.ntt(a)
    digits = r.digits(level)
    product = math.prod(primes[level + 1 :])
    unit = np.zeros((2 * digits, len(primes), 1024), np.uint64)
    for i, q in enumerate(chain):
        unit[0, i] = product % q  # P, so that dividing by P gives the digit itself
    z = r.relinearize(a, r.load(2 * digits, 2 * digits, level, True, unit))
    r.intt(z)
    width = min(digit, level + 1)
    expected = composed(x[2, :width], chain[:width])
    for i, q in enumerate(chain):
        np.testing.assert_array_equal(np.asarray(z)[0, i], np.array([e % q for e in expected], np.uint64))
    assert not np.asarray(z)[1].any()


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("log_period", range(12))
@pytest.mark.parametrize("log_scale", [30, 60, 90])
def test_encoding_and_decoding_any_period_at_any_scale(kernels: str, log_period: int, log_scale: int) -> None:
    r, _ = ring(12, (40, 40, 40, 45), 1, kernels)
    values = np.random.default_rng(log_period).uniform(-1, 1, 1 << log_period)
    plain = r.encode(values, 2.0**log_scale, 2)
    m = r.add_plain(r.empty(1, 2, False), plain)
    found = r.decode(m) / 2.0**log_scale
    error = max(2.0 ** (7 - log_scale), 2.0**-46)
    np.testing.assert_allclose(found, np.tile(values, 2048 >> log_period), atol=error)
    assert plain.nbytes == 8 * 3 * min(4096, 2 << log_period if log_period else 1)


# ---- Noise ----

NOISY = {
    1: make_params(13, 3, 40, log_q0=44, log_special=48),
    2: make_params(13, 3, 30, log_q0=36, log_special=40, specials=2),
    3: make_params(14, 5, 40, log_q0=44, log_special=47, specials=3),
    4: make_params(13, 3, 26, log_q0=30, log_special=48, specials=2, digit=3),
}
"""By the special primes' number; 4 has digits of more primes than there are special ones."""


@cache
def parts(specials: int, kernels: str) -> tuple[object, NativeEvaluator]:
    backend = NativeBackend(threads=2, kernels=kernels)
    client = backend.keygen(NOISY[specials], (1, 7, 64, -5, 100))
    return client, backend.evaluator(NOISY[specials], client.eval_keys)


def slots(p: Params, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, p.slots)


def within_factor_2(errors: np.ndarray, scale: float, predicted: float) -> None:
    measured = errors.std() * scale
    assert predicted / 2 < measured < 2 * predicted


def switch_noise(p: Params, level: int) -> float:
    """Digits are centered here: uniform in (-D/2, D/2), variance D^2/12 each; else as in ``sim``."""
    n = 1 << p.log_n
    ratio = sum((math.prod(digit) / math.prod(p.special)) ** 2 for digit in p.digits(level))
    return math.sqrt(3.2**2 * n / 2 * ratio * n / 12 + Noise(p).rescale() ** 2)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("specials", NOISY)
def test_noise_of_every_operation(specials: int, kernels: str) -> None:
    p = NOISY[specials]
    client, ev = parts(specials, kernels)
    a, top = slots(p), p.max_level
    x = client.encrypt(a, top, p.scale)
    fresh = math.hypot(3.2 * math.sqrt((1 << p.log_n) / 2), Noise(p).encode(p.slots))
    within_factor_2(client.decrypt(x) - a, p.scale, fresh)
    y = ev.mul_plain(x, ev.encode(slots(p, 1), top, p.scale))
    scale = p.scale**2 / p.primes[top]
    within_factor_2(client.decrypt(ev.rescale(y, scale)) - client.decrypt(y), scale, Noise(p).rescale())
    for level in (top, 1, 0):
        low = ev.drop_level(x, level)
        errors = client.decrypt(ev.rotate(low, 7)) - np.roll(client.decrypt(low), -7)
        within_factor_2(errors, p.scale, switch_noise(p, level))
    small = client.encrypt(a, top, 2.0**20)
    wide = ev.mul(small, small)
    within_factor_2(client.decrypt(ev.relinearize(wide)) - client.decrypt(wide), 2.0**40, switch_noise(p, top))


def test_errors_and_secrets_have_the_stated_distributions() -> None:
    from pi_compiler.runtime.native.secret import gaussian, ternary

    e = gaussian(1 << 18)
    assert abs(e.std() - 3.2) < 0.03
    assert abs(e.mean()) < 0.05
    assert abs((e == 0).mean() - 1 / (3.2 * math.sqrt(2 * math.pi))) < 0.005
    counts = np.bincount(ternary(1 << 18) + 1, minlength=3) / (1 << 18)
    np.testing.assert_allclose(counts, 1 / 3, atol=0.006)


# ---- Matrix products in one call ----


def product(build: Callable[..., object], p: Params, period: int, giants: tuple[int, ...]) -> object:
    b = build(p, 2)
    rng = np.random.default_rng(0)
    rotated = {(v, by): b.rotate(v, by) if by else v for v in (0, 1) for by in (0, 1, 7)}
    sums = []
    for giant in giants:
        terms = [b.mul_plain(r, rng.uniform(-1, 1, period)) for r in rotated.values()]
        total = terms[0]
        for t in terms[1:]:
            total = b.add(total, t)
        sums.append(b.rotate(total, giant) if giant else total)
    total = sums[0]
    for s in sums[1:]:
        total = b.add(total, s)
    extra = b.mul_plain(0, rng.uniform(-1, 1, 8))
    total = b.add(total, b.neg(extra))
    return b.program(b.rescale(b.add(total, b.rotate(total, 64))))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("specials", NOISY)
@pytest.mark.parametrize("giants", [(0,), (0, 64, -5), (100,)])
@pytest.mark.parametrize("memory", [0, 1 << 24])
def test_fused_matrix_products_agree_with_the_instructions(
    build: Callable[..., object], specials: int, kernels: str, giants: tuple[int, ...], memory: int
) -> None:
    p = NOISY[specials]
    client, ev = parts(specials, kernels)
    program = product(build, p, 256, giants)
    x = [client.encrypt(slots(p, k), p.max_level, p.scale) for k in range(2)]
    found = []
    for fused in (True, False):
        prepared = prepare(program, ev, plaintext_memory=memory, fused=fused)
        assert bool(prepared.fusion.sums) == fused
        assert prepared.fusion.late == (fused and memory == 0)
        out, trace = execute(prepared, {"x": x})
        assert sum(t.count for name, t in trace.opcodes().items() if name != "encode") == len(program)
        found.append(client.decrypt(out["y"][0]))
    # Errors of sums of 7 len(giants) products, folded; a wrong term is off by about one.
    np.testing.assert_allclose(found[0], found[1], atol=2.0**-8)
    assert np.abs(found[0]).max() > 1


def test_a_rotation_that_somebody_else_reads_stays_a_ciphertext(build: Callable[..., object]) -> None:
    b = build(NOISY[1])
    r, s = b.rotate(0, 1), b.rotate(0, 7)
    y = b.add(b.mul_plain(r, np.ones(1)), b.mul_plain(s, np.ones(1)))
    found = fuse(b.program(y, r))
    assert found.babies == {1}
    assert found.products == {2, 3}


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_late_constants_give_the_residues_of_those_made_beforehand(kernels: str, data: st.DataObject) -> None:
    level, digit = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 5))
    r, primes = ring(10, (30,) * (level + 1) + (40, 40), 2, kernels, digit)
    a = r.load(2, 2, level, False, random_limbs(primes[: level + 1], 2, 1024, 1))
    k = r.load(
        2 * r.digits(level), 2 * r.digits(level), level, True, random_limbs(primes, 2 * r.digits(level), 1024, 2)
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    periods = data.draw(st.lists(st.sampled_from([1, 4, 64, 512]), min_size=1, max_size=20))
    rows = [rng.uniform(-1, 1, period) for period in periods]
    late = [(a, r.encode(row, 2.0**25, level, False, True)) for row in rows]
    eager = [(a, r.encode(row, 2.0**25, level)) for row in rows]
    for (_, x), (_, y) in zip(late, eager, strict=True):
        # A number is never late: its residues take less than their transform would.
        assert y.nbytes == x.nbytes * (1 if x.nbytes == y.nbytes == 8 * (level + 1) else level + 1)
    for key in (None, k):
        found = [r.linear_sum([(terms, key, 9 if key else 1), (terms, None, 1)], level) for terms in (late, eager)]
        np.testing.assert_array_equal(np.asarray(found[0]), np.asarray(found[1]))
    with pytest.raises(ValueError, match="late"):
        r.mul_plain(a, r.encode(np.ones(4), 2.0**25, level, False, True))
    one = r.encode(np.ones(1), 2.0**25, level, False, True)
    assert one.nbytes == 8 * (level + 1)
    r.mul_plain(a, one)


# ---- Keys of the levels that a program uses ----


@settings(max_examples=10, deadline=None)
@given(levels=st.dictionaries(st.integers(-4095, 4095), st.integers(0, 3), min_size=1, max_size=4))
def test_a_rotation_key_serves_the_levels_it_was_made_for_and_no_higher_one(levels: dict[int, int]) -> None:
    p = NOISY[4]
    backend = NativeBackend(threads=2)
    client = backend.keygen(p, levels, relinearize=False)
    keys = client.eval_keys
    highest = {step % p.slots: 0 for step in levels if step}
    for step in highest:
        highest[step] = max(level for other, level in levels.items() if other % p.slots == step)
    assert keys.rotations == highest.keys()
    assert keys.nbytes == sum(p.key_bytes(level) for level in highest.values())
    ev, a = backend.evaluator(p, keys), slots(p)
    x = client.encrypt(a, p.max_level, p.scale)
    for step, level in highest.items():
        low = ev.drop_level(x, level)
        np.testing.assert_allclose(client.decrypt(ev.rotate(low, step)), np.roll(a, -step), atol=2.0**-8)
        if level < p.max_level:
            with pytest.raises(ExecutionError, match=f"serves levels up to {level}"):
                ev.rotate(x, step)


def test_keys_of_low_levels_come_back_from_files_that_they_make_small(tmp_path: Path) -> None:
    p, backend = NOISY[4], NativeBackend(threads=2)
    client = backend.keygen(p, {5: 1, 9: 3})
    written = client.save_eval_keys(tmp_path)
    assert written < 0.51 * (p.key_bytes(1) + 2 * p.key_bytes(3)) + 8192
    ev = backend.evaluator(p, backend.load_keys(p, tmp_path))
    a = slots(p)
    x = client.encrypt(a, 1, p.scale)
    np.testing.assert_allclose(client.decrypt(ev.rotate(x, 5)), np.roll(a, -5), atol=2.0**-8)
    other = make_params(13, 3, 26, log_q0=30, log_special=48, specials=2, digit=2)
    with pytest.raises(ArtifactError, match="other parameters"):
        backend.load_keys(other, tmp_path)


def test_keys_for_levels_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ExecutionError, match="no such level"):
        NativeBackend().keygen(NOISY[1], {5: 4})


# ---- SEAL on the same primes ----


class Shared:
    """One secret key on both sides, and SEAL's keys as ours.

    Residues are SEAL's, in SEAL's order. A rotation key of SEAL is the automorphism of one of ours,
    because SEAL applies it before switching keys and we do after.
    """

    def __init__(self) -> None:
        from pi_compiler.runtime.native.secret import NativeClient
        from pi_compiler.runtime.tenseal import TensealBackend

        self.params = p = NOISY[1]
        backend = TensealBackend()
        self.client = backend.keygen(p, (1, 7))
        self.ev = backend.evaluator(p, self.client.eval_keys)
        self.ring = NativeBackend(threads=1)._ring(p, insecure=False)
        r, top = self.ring.core, p.max_level
        s = self.polys(self.client._secret.data().dyn_array(), 1, top, extended=True)
        r.intt(s)
        first = np.asarray(s)[0, 0].astype(np.int64)
        secret = np.where(first > p.primes[0] // 2, first - p.primes[0], first)
        self.ours = NativeClient(self.ring, secret.astype(np.int8), frozenset({1, 7}), True)
        keys = self.client.eval_keys
        rotation = {}
        for step in (1, 7):
            g = self.ring.galois(step)
            rotation[step] = r.permute(self.key(keys.galois.key(g)), pow(g, -1, 2 << p.log_n))
        seals = NativeKeys(self.ring, rotation, self.key(keys.relin.key(2)))
        self.our_ev = NativeEvaluator(seals)

    def polys(self, array: object, count: int, level: int, *, extended: bool = False) -> object:
        words = np.array([array.at(i) for i in range(array.size())], np.uint64)
        return self.ring.core.load(count, count, level, extended, words)

    def key(self, digits: list[object]) -> object:
        pairs = [[d.data().dyn_array().at(i) for i in range(d.data().dyn_array().size())] for d in digits]
        words = np.array(pairs, np.uint64).reshape(len(digits), 2, -1).swapaxes(0, 1)
        level = self.params.max_level
        return self.ring.core.load(2 * len(digits), 2 * len(digits), level, True, np.ascontiguousarray(words))

    def from_seal(self, x: object) -> NativeCiphertext:
        return NativeCiphertext(self.ring, self.polys(x.dyn_array(), x.size(), x.coeff_modulus_size() - 1), x.scale)

    def to_seal(self, x: NativeCiphertext, path: Path) -> object:
        """SEAL's serialization without compression: header, parameters' hash, sizes, scale, residues."""
        from tenseal import sealapi

        self.client.encrypt(np.ones(1), 0, 2.0**20).save(str(path))
        version = path.read_bytes()[3:5]

        def sealed(content: bytes) -> bytes:
            return struct.pack("<HB2sBHQ", 0xA15E, 16, version, 0, 0, 16 + len(content)) + content

        words = np.asarray(x.polys)
        sizes = struct.pack("<BQQQdQ", 1, words.shape[0], words.shape[2], words.shape[1], x.scale, 1)
        ident = struct.pack("<4Q", *self.ev._ring.ids[x.polys.level])
        path.write_bytes(sealed(ident + sizes + sealed(struct.pack("<Q", words.size) + words.tobytes())))
        found = sealapi.Ciphertext()
        found.load(self.ev._ring.context, str(path))
        return found


@cache
def shared() -> Shared:
    return Shared()


@pytest.mark.skipif(not HAS_TENSEAL, reason="tenseal is not installed")
class TestSeal:
    BOUND = 2.0**-20
    """Scale 2^40: noise of an operation is 2^-29 or less, a wrong answer about 1."""

    def check(self, x: NativeCiphertext, expected: np.ndarray, path: Path) -> None:
        """Under either key holder's eyes."""
        both = shared()
        np.testing.assert_allclose(both.ours.decrypt(x), expected, atol=self.BOUND)
        np.testing.assert_allclose(both.client.decrypt(both.to_seal(x, path / "x")), expected, atol=self.BOUND)

    @pytest.mark.parametrize("level", [3, 0])
    def test_ciphertexts_cross_in_both_directions(self, level: int, tmp_path: Path) -> None:
        both, a = shared(), slots(NOISY[1])
        self.check(both.ours.encrypt(a, level, 2.0**40), a, tmp_path)
        theirs = both.client.encrypt(a, level, 2.0**40)
        self.check(both.from_seal(theirs), a, tmp_path)

    def test_operations_without_keys_give_the_same_residues(self, tmp_path: Path) -> None:
        both, a, b = shared(), slots(NOISY[1], 1), slots(NOISY[1], 2)
        x, y = (both.client.encrypt(v, 3, 2.0**40) for v in (a, b))
        u, v = both.from_seal(x), both.from_seal(y)
        ev, ours = both.ev, both.our_ev
        scale = 2.0**80 / NOISY[1].primes[3]
        for theirs, mine in (
            (ev.add(x, y), ours.add(u, v)),
            (ev.sub(x, y), ours.sub(u, v)),
            (ev.neg(x), ours.neg(u)),
            (ev.mul(x, y), ours.mul(u, v)),
            (ev.mul(x, x), ours.mul(u, u)),
            (ev.drop_level(x, 1), ours.drop_level(u, 1)),
            (ev.rescale(ev.mul(x, y), scale), ours.rescale(ours.mul(u, v), scale)),
        ):
            np.testing.assert_array_equal(np.asarray(both.from_seal(theirs).polys), np.asarray(mine.polys))

    def test_plaintexts_are_the_same_up_to_rounding(self, tmp_path: Path) -> None:
        both, a = shared(), slots(NOISY[1])
        x = both.from_seal(both.client.encrypt(a, 3, 2.0**40))
        for period in (4096, 64, 1):
            c = slots(NOISY[1], 3)[:period]
            full = np.tile(c, 4096 // period)
            self.check(both.our_ev.mul_plain(x, both.our_ev.encode(c, 3, 2.0**30)), a * full, tmp_path)
            self.check(both.our_ev.add_plain(x, both.our_ev.encode(c, 3, 2.0**40)), a + full, tmp_path)

    @pytest.mark.parametrize("level", [3, 1, 0])
    def test_seals_keys_work_in_our_evaluator(self, level: int, tmp_path: Path) -> None:
        both, a = shared(), slots(NOISY[1])
        x = both.from_seal(both.client.encrypt(a, level, 2.0**40))
        self.check(both.our_ev.rotate(x, 7), np.roll(a, -7), tmp_path)
        small = both.from_seal(both.client.encrypt(a, level, 2.0**18))
        square = both.our_ev.relinearize(both.our_ev.mul(small, small))
        np.testing.assert_allclose(both.ours.decrypt(square), a**2, atol=2.0**-4)
        np.testing.assert_allclose(both.client.decrypt(both.to_seal(square, tmp_path / "y")), a**2, atol=2.0**-4)

    @pytest.mark.parametrize("level", [3, 0])
    def test_conjugation_is_seals(self, level: int, tmp_path: Path) -> None:
        """On complex slots, which only SEAL encodes; with SEAL's key on both sides and with ours."""
        from tenseal import sealapi

        from pi_compiler.runtime.native.secret import NativeClient

        both, p = shared(), NOISY[1]
        rng = np.random.default_rng(level)
        z = rng.uniform(-1, 1, p.slots) + 1j * rng.uniform(-1, 1, p.slots)
        ring, plain, x, theirs = both.ev._ring, sealapi.Plaintext(), sealapi.Ciphertext(), sealapi.Ciphertext()
        ring.encoder.encode(z.tolist(), ring.ids[level], 2.0**40, plain)
        both.client._encryptor.encrypt_symmetric(plain, x)
        galois = sealapi.GaloisKeys()
        sealapi.KeyGenerator(ring.context, both.client._secret).create_galois_keys([both.ring.conjugation], galois)
        both.ev._evaluator.complex_conjugate(x, galois, theirs)
        key = both.ring.core.permute(both.key(galois.key(both.ring.conjugation)), both.ring.conjugation)
        ours = NativeClient(both.ring, both.ours._coefficients.copy(), frozenset(), False, conjugate=True)
        found = [both.from_seal(theirs)]
        for keys in (NativeKeys(both.ring, {}, None, key), ours.eval_keys):
            found.append(NativeEvaluator(keys).conjugate(both.from_seal(x)))
        for y in found:
            sealapi.Decryptor(ring.context, both.client._secret).decrypt(both.to_seal(y, tmp_path / "x"), plain)
            np.testing.assert_allclose(ring.encoder.decode_complex(plain), z.conj(), atol=self.BOUND)


# ---- Files ----


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    client, _ = parts(1, KERNELS[0])
    client.save(tmp_path / "secret")
    client.encrypt_to(tmp_path / "short", slots(NOISY[1]), 2, NOISY[1].scale)
    client.save_ciphertext(client.encrypt(slots(NOISY[1]), 2, NOISY[1].scale), tmp_path / "long")
    return tmp_path


def resealed(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file and give it a digest that fits, as an attacker would."""
    content = change(path.read_bytes()[:-32])
    path.unlink()
    files.write_sealed(path, lambda name: Path(name).write_bytes(content) and None)


HEADERS = st.dictionaries(
    st.sampled_from(["kind", "level", "polys", "scale", "seed", "log_n", "primes"]),
    st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=70), st.none(), st.lists(st.integers())),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(changed=HEADERS, name=st.sampled_from(["short", "long"]))
def test_files_with_other_headers_load_as_they_say_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, changed: dict[str, object], name: str
) -> None:
    client, ev = parts(1, KERNELS[0])
    path = tmp_path_factory.mktemp("fuzz") / "x"
    x = client.encrypt(slots(NOISY[1]), 1, NOISY[1].scale)
    if name == "long":
        client.save_ciphertext(x, path)
    else:
        client.encrypt_to(path, slots(NOISY[1]), 1, NOISY[1].scale)

    def change(content: bytes) -> bytes:
        magic, header, rest = content.split(b"\n", 2)
        return b"\n".join((magic, json.dumps({**json.loads(header), **changed}).encode(), rest))

    resealed(path, change)
    try:
        y = ev.load_ciphertext(path)
    except ArtifactError:
        return
    # Whatever loads has to be safe to compute with.
    assert ev.type_of(y).level == 1
    client.decrypt(ev.neg(y))


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 1 << 20), cut=st.integers(0, 4096), junk=st.binary(max_size=64))
def test_resealed_garbage_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, at: int, cut: int, junk: bytes
) -> None:
    client, ev = parts(1, KERNELS[0])
    path = tmp_path_factory.mktemp("fuzz") / "x"
    client.encrypt_to(path, slots(NOISY[1]), 1, NOISY[1].scale)
    resealed(path, lambda c: c[: at % len(c)] + junk + c[at % len(c) + cut :])
    try:
        client.decrypt(ev.load_ciphertext(path))
    except PiError:
        return


def test_a_residue_above_its_prime_is_refused(saved: Path) -> None:
    _, ev = parts(1, KERNELS[0])
    resealed(saved / "long", lambda c: c[:-8] + b"\xff" * 8)
    with pytest.raises(ArtifactError, match="not below its modulus"):
        ev.load_ciphertext(saved / "long")


def test_a_secret_key_with_other_values_is_refused(saved: Path) -> None:
    resealed(saved / "secret", lambda c: c[:-1] + b"\x02")
    with pytest.raises(ArtifactError, match="not a secret key"):
        NativeBackend().load_client(NOISY[1], saved / "secret")


def test_fresh_files_take_half(saved: Path) -> None:
    assert (saved / "short").stat().st_size < 0.52 * (saved / "long").stat().st_size


# ---- Misuse ----


def test_nothing_that_the_evaluator_reaches_holds_the_secret() -> None:
    from pi_compiler.runtime.native.secret import NativeClient

    client, ev = parts(1, KERNELS[0])
    assert reaches(client, client._secret)
    assert not reaches(ev, client._secret)
    assert not reaches(ev, client._coefficients)
    assert not any(isinstance(x, NativeClient) for x in gc.get_referents(ev))


def reaches(start: object, wanted: object) -> bool:
    seen, todo = set(), [start]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(thing))
        if thing is wanted:
            return True
        todo += gc.get_referents(thing)
    return False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, [12289], 1, 1), "log_n"),
        ((12, [40961], 1, 1), "chain"),
        ((12, [40961, 40961], 1, 1), "distinct"),
        ((12, [40961, 8191], 1, 1), "not a prime"),
        ((12, [40961, 2**61 - 1], 1, 1), "not a prime"),
        ((12, [40961, 65537], 0, 1), "special"),
        ((12, [40961, 65537], 1, 0), "threads"),
        ((12, [40961, 65537], 1, 1, "mmx"), "instruction set"),
    ],
)
def test_impossible_rings_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.Ring(*arguments)


def test_the_module_refuses_what_does_not_fit_together() -> None:
    r, _ = ring(11, (40, 40, 40, 45), 1, KERNELS[0])
    other, _ = ring(12, (40, 40, 40, 45), 1, KERNELS[0])
    a, low, wide, foreign = r.empty(2, 2, False), r.empty(2, 1, False), r.empty(3, 2, False), other.empty(2, 2, False)
    k, plain = r.empty(6, 2, True), r.encode(np.ones(4), 8.0, 2)
    low_key = r.empty(4, 1, True)
    d = r.decompose(a)
    for act in (
        lambda: r.add(a, low),
        lambda: r.add(a, foreign),
        lambda: r.mul(a, wide),
        lambda: r.mul_plain(low, plain),
        lambda: r.mul_plain(foreign, plain),
        lambda: r.relinearize(a, k),
        lambda: r.relinearize(wide, low_key),
        lambda: r.relinearize(wide, a),
        lambda: r.rotate(a, d, low_key, 3),
        lambda: r.rotate(low, d, k, 3),
        lambda: r.rotate(a, d, k, 2),
        lambda: r.rotate(a, d, k, 1 << 40),
        lambda: other.rotate(foreign, d, k, 3),
        lambda: r.rescale(r.empty(2, 0, False)),
        lambda: r.rescale(r.empty(2, 1, True)),
        lambda: r.drop(low, 2),
        lambda: r.drop(low, -1),
        lambda: r.empty(2, 3, False),
        lambda: r.empty(-1, 2, False),
        lambda: r.empty(1 << 30, 2, False),
        lambda: r.load(2, 2, 2, False, b"short"),
        lambda: r.load(2, 3, 2, False, b""),
        lambda: r.encode(np.ones(3), 8.0, 2),
        lambda: r.encode(np.ones(2048), 8.0, 2),
        lambda: r.encode(np.array([np.nan]), 8.0, 2),
        lambda: r.encode(np.ones(4), 0.0, 2),
        lambda: r.encode(np.ones(4), 8.0, 3),
        lambda: r.decode(a),
        lambda: r.small(np.ones(5), 2, True),
        lambda: r.small(np.full(2048, 1e9), 2, True),
        lambda: r.uniform(a, 0, 0, b"short"),
        lambda: r.uniform(a, 2, 0, b""),
        lambda: r.uniform(a, 0, 9, b""),
        lambda: r.mul_add(a, 0, low, 0, a, 0, a, 0),
        lambda: r.mul_add(a, 0, a, 5, a, 0, a, 0),
        lambda: r.add_gadget(k, 0, a, 0, 7),
        lambda: r.permute(a, 4),
        lambda: r.linear_sum([], 2),
        lambda: r.linear_sum([([], None, 1)], 2),
        lambda: r.linear_sum([([(a, plain)], low_key, 3)], 2),
        lambda: r.linear_sum([([(wide, plain)], None, 1)], 2),
        lambda: r.linear_sum([([(low, plain)], None, 1)], 2),
        lambda: r.digits(9),
    ):
        with pytest.raises(ValueError, match=r"."):
            act()


def test_values_beyond_the_modulus_are_refused() -> None:
    _, ev = parts(1, KERNELS[0])
    with pytest.raises(ExecutionError, match="cannot encode values up to 1e\\+12"):
        ev.encode(np.full(64, 1e12), 0, NOISY[1].scale)


def test_insecure_parameters_need_to_be_asked_for() -> None:
    p = make_params(12, 3, 30, log_q0=40, log_special=40, insecure=True)
    with pytest.raises(ParameterError, match="less than 128-bit security"):
        NativeBackend().keygen(p, ())
    assert NativeBackend().keygen(p, (), insecure=True).eval_keys.relinearize


def test_primes_of_plans_are_small_enough_for_the_fast_transform() -> None:
    bits = NativeBackend.capabilities.fast_prime_bits
    p = make_params(13, 1, bits - 8, log_q0=bits - 4, log_special=bits - 0.5)
    assert max((*p.primes, *p.special)).bit_length() <= bits
    assert NativeBackend()._ring(p, insecure=False).core.kernels == KERNELS[0]


def test_the_largest_ring_works() -> None:
    p = make_params(16, 3, 40, log_q0=46, log_special=49, specials=2)
    backend = NativeBackend()
    client = backend.keygen(p, (5,), relinearize=False)
    ev = backend.evaluator(p, client.eval_keys)
    a = slots(p)
    found = client.decrypt(ev.rotate(client.encrypt(a, 3, p.scale), 5))
    np.testing.assert_allclose(found, np.roll(a, -5), atol=2.0**-18)
    assert Opcode.ROTATE in backend.capabilities.opcodes
