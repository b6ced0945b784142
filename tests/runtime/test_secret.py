"""The secret side of the native backend, the evaluating side without it, and noise over what leaves the owner."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.errors import ArtifactError, ExecutionError, ParameterError
from pi_compiler.ir.params import Params, make_params
from pi_compiler.runtime import flooding, randomness
from pi_compiler.runtime.flooding import Flood
from pi_compiler.runtime.native import NativeBackend
from pi_compiler.runtime.native.material import core_error
from pi_compiler.runtime.sim import Noise

native = pytest.mark.skipif(core_error() is not None, reason="the native module is not built")
PARAMS = {
    1: make_params(13, 3, 40, log_q0=44, log_special=48),
    2: make_params(13, 3, 30, log_q0=36, log_special=40, specials=2),
}


@cache
def parts(specials: int) -> tuple[object, object]:
    backend = NativeBackend(threads=1)
    client = backend.keygen(PARAMS[specials], (1,), conjugate=True)
    return client, backend.evaluator(PARAMS[specials], client.eval_keys)


def slots(p: Params, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, p.slots)


# ---- Randomness ----


def test_filling_an_array_changes_all_of_it_each_time() -> None:
    a, b = np.zeros(1 << 16, np.uint64), np.zeros(1 << 16, np.uint64)
    randomness.fill(a)
    randomness.fill(b)
    assert np.unique(np.concatenate([a, b])).size == 1 << 17
    bits = np.unpackbits(a.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 6 * 0.5 / 256  # six standard deviations of 2^16 coin tosses


def test_without_the_device_the_array_is_filled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness, "_DEVICE", "/nowhere")
    a = np.zeros(4096, np.uint64)
    randomness.fill(a)
    assert np.unique(a).size == 4096


def test_arrays_are_wiped_even_after_an_error() -> None:
    a = np.ones(8)

    def fail() -> None:
        with randomness.wiped(a):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert not a.any()


def test_shake_is_the_published_one() -> None:
    """SHAKE-128 of the empty message, as NIST publishes it."""
    expected = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
    assert hashlib.shake_128(b"").hexdigest(32) == expected


@native
@settings(max_examples=10, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), number=st.integers(0, 2**32 - 1))
def test_a_seed_stands_for_the_residues_that_rejection_from_shake_gives(seed: bytes, number: int) -> None:
    """Written again with big integers, so that other implementations can read our files."""
    p = PARAMS[2]
    ring = NativeBackend(threads=1)._ring(p, insecure=False)
    polys = ring.core.empty(1, 1, True)
    ring.uniform(polys, 0, seed, number)
    numbers = [(0, p.primes[0]), (1, p.primes[1]), (4, p.special[0]), (5, p.special[1])]
    for limb, (prime, q) in enumerate(numbers):
        label = number.to_bytes(4, "little") + prime.to_bytes(4, "little")
        stream = hashlib.shake_128(seed + label).digest(16 * p.slots + 1024)
        words = (int.from_bytes(stream[i : i + 8], "little") for i in range(0, len(stream), 8))
        expected = [w % q for w in words if w < 2**64 // q * q][: 2 * p.slots]
        np.testing.assert_array_equal(np.asarray(polys)[0, limb], np.array(expected, np.uint64))


# ---- Wiping ----


@native
def test_what_the_client_samples_is_wiped_when_it_has_served(monkeypatch: pytest.MonkeyPatch) -> None:
    from pi_compiler.runtime.native import secret

    made: list[np.ndarray] = []

    def recorded(sample: object) -> object:
        def call(n: int) -> np.ndarray:
            made.append(sample(n))
            return made[-1]

        return call

    monkeypatch.setattr(secret, "gaussian", recorded(secret.gaussian))
    p = PARAMS[1]
    client = NativeBackend(threads=1).keygen(p, (1,), conjugate=True)
    monkeypatch.setattr(secret, "ternary", recorded(secret.ternary))
    assert client.eval_keys.rotations == {1}
    client.encrypt(slots(p), 1, p.scale)
    client.public_key.encrypt(slots(p), 1, p.scale)
    assert len(made) >= 5 + 3 * len(p.primes)
    assert not any(a.any() for a in made)
    coefficients = client._coefficients
    assert coefficients.any()
    del client
    gc.collect()
    assert not coefficients.any()


@native
def test_memory_of_secret_polynomials_is_zero_when_it_goes_back_to_the_pool() -> None:
    ring = NativeBackend(threads=1)._ring(PARAMS[1], insecure=False)
    r, n = ring.core, 1 << PARAMS[1].log_n

    def content(made: object) -> ctypes.Array[ctypes.c_uint64]:
        view = np.asarray(made)
        assert view.any()
        return (ctypes.c_uint64 * view.size).from_address(view.ctypes.data)

    small = r.small(np.ones(n), 1, True)
    others = [r.neg(small), r.permute(small, 3)]
    mask = r.empty(1, 1, True, secret=True)
    r.add_gadget(mask, 0, small, 0, 0)
    others += [mask, r.divide_special(mask)]
    left = [content(x) for x in (small, *others)]
    del small, others, mask
    gc.collect()
    # The pool keeps its blocks while the ring lives.
    assert not any(np.frombuffer(block, np.uint64).any() for block in left)
    public = r.load(1, 1, 0, False, np.ones((1, 1, n), np.uint64))
    kept = content(public)
    del public
    gc.collect()
    assert np.frombuffer(kept, np.uint64).any()


# ---- Public key ----


@native
@pytest.mark.parametrize("specials", PARAMS)
@pytest.mark.parametrize("level", [3, 0])
def test_noise_of_an_encryption_by_public_key_is_that_of_rounding(specials: int, level: int) -> None:
    p = PARAMS[specials]
    client, _ = parts(specials)
    found = client.decrypt(client.public_key.encrypt(slots(p), level, p.scale))
    measured = (found - slots(p)).std() * p.scale
    predicted = math.hypot(Noise(p).rescale(), Noise(p).encode(p.slots))
    assert predicted / 2 < measured < 2 * predicted


@native
def test_two_encryptions_of_one_value_have_nothing_in_common() -> None:
    client, _ = parts(1)
    x, y = (np.asarray(client.public_key.encrypt(np.ones(1), 1, 2.0**30).polys) for _ in range(2))
    assert (x == y).mean() < 1e-3


@native
def test_a_public_key_takes_half_in_a_file_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    p = PARAMS[1]
    client, _ = parts(1)
    size = client.public_key.save(tmp_path / "public")
    assert size < 8 * 5 * (1 << p.log_n) + 4096
    loaded = NativeBackend().load_public_key(p, tmp_path / "public")
    np.testing.assert_allclose(client.decrypt(loaded.encrypt(slots(p), 2, p.scale)), slots(p), atol=2.0**-25)
    with pytest.raises(ArtifactError, match="holds something else"):
        client.load_ciphertext(tmp_path / "public")
    damaged = bytearray((tmp_path / "public").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "public").write_bytes(bytes(damaged))
    with pytest.raises(ArtifactError, match="damaged"):
        NativeBackend().load_public_key(p, tmp_path / "public")


# ---- Conjugation ----


@native
def test_conjugation_keeps_real_slots_and_undoes_itself(tmp_path: Path) -> None:
    p = PARAMS[1]
    client, ev = parts(1)
    x = client.encrypt(slots(p), 2, p.scale)
    y = ev.conjugate(x)
    assert ev.type_of(y) == ev.type_of(x)
    np.testing.assert_allclose(client.decrypt(y), slots(p), atol=2.0**-25)
    # Rotations and conjugation commute; together they are another automorphism.
    one, other = ev.conjugate(ev.rotate(x, 1)), ev.rotate(y, 1)
    np.testing.assert_allclose(client.decrypt(one), client.decrypt(other), atol=2.0**-25)
    client.save_eval_keys(tmp_path)
    keys = NativeBackend().load_keys(p, tmp_path)
    again = NativeBackend().evaluator(p, keys).conjugate(x)
    np.testing.assert_allclose(client.decrypt(again), slots(p), atol=2.0**-25)


@native
def test_conjugation_needs_its_key_and_dimension_2() -> None:
    p = PARAMS[1]
    client, ev = parts(1)
    x = client.encrypt(slots(p), 2, p.scale)
    with pytest.raises(ExecutionError, match="relinearize first"):
        ev.conjugate(ev.mul(x, x))
    backend = NativeBackend(threads=1)
    other = backend.keygen(p, ())
    with pytest.raises(ExecutionError, match="no key for conjugation"):
        backend.evaluator(p, other.eval_keys).conjugate(other.encrypt(slots(p), 2, p.scale))


# ---- The evaluating side alone ----

ALONE = """
import importlib.abc, pickle, sys
from pathlib import Path

class NoSecret(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.endswith(("native.secret", "randomness")):
            raise ImportError(name + " is not on the server")

sys.meta_path.insert(0, NoSecret())
from pi_compiler.runtime.native import NativeBackend
folder = Path(sys.argv[1])
params = pickle.loads((folder / "params").read_bytes())
backend = NativeBackend(threads=1)
ev = backend.evaluator(params, getattr(backend, sys.argv[2])(params, folder / "keys"))
x = ev.load_ciphertext(folder / "x")
y = ev.add(ev.rotate(x, 1), ev.conjugate(x))
y = ev.rescale(ev.relinearize(ev.mul(y, y)), params.scale**2 / params.primes[params.max_level])
ev.save_ciphertext(y, folder / "y")
loaded = [m for m in sys.modules if "secret" in m and m.startswith("pi_compiler")]
assert not loaded, loaded
"""


@native
@pytest.mark.parametrize(("who", "reads"), [("owner", "map_keys"), ("third party", "load_keys")])
def test_the_evaluator_runs_in_a_process_that_cannot_import_the_secret_side(
    who: str, reads: str, tmp_path: Path
) -> None:
    import pickle

    p = PARAMS[1]
    backend = NativeBackend(threads=1)
    client = backend.keygen(p, (1,), conjugate=True)
    client.save_eval_keys(tmp_path / "keys")
    (tmp_path / "params").write_bytes(pickle.dumps(p))
    if who == "owner":
        client.encrypt_to(tmp_path / "x", slots(p), p.max_level, p.scale)
    else:
        client.public_key.save(tmp_path / "public")
        public = backend.load_public_key(p, tmp_path / "public")
        client.save_ciphertext(public.encrypt(slots(p), p.max_level, p.scale), tmp_path / "x")
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path), reads], check=True, timeout=120)
    expected = (np.roll(slots(p), -1) + slots(p)) ** 2
    np.testing.assert_allclose(client.decrypt(client.load_ciphertext(tmp_path / "y")), expected, atol=2.0**-18)
    secret = client._coefficients.tobytes()
    client.save(tmp_path / "secret")
    assert secret[:64] in (tmp_path / "secret").read_bytes()
    for path in (tmp_path / "keys").iterdir():
        assert secret[:64] not in path.read_bytes()


# ---- Noise over released values ----


def test_the_noise_has_the_documented_deviation() -> None:
    flood = Flood(bits=20, releases=4, error=2.0**-20)
    assert flood.deviation(16) == 8 * math.sqrt(4 * 16) * 2**10 * 2.0**-20
    values = np.random.default_rng(0).uniform(-1, 1, (4096, 4))
    found = flood.apply({"y": values}, 16)["y"] - values
    assert found.std() == pytest.approx(flood.deviation(16), rel=0.05)
    assert abs(found.mean()) < 5 * flood.deviation(16) / 128


@settings(max_examples=25, deadline=None)
@given(
    bits=st.integers(1, 64), releases=st.integers(1, 1 << 40), log_error=st.floats(-60, 0), values=st.integers(1, 4096)
)
def test_divergences_of_all_releases_add_up_to_the_security_asked_for(
    bits: int, releases: int, log_error: float, values: int
) -> None:
    """Gaussians of deviation sigma whose centers are t apart diverge by t^2 / (2 sigma^2)."""
    flood = Flood(bits, releases, 2.0**log_error)
    divergence = values * flood.error**2 / (2 * flood.deviation(values) ** 2)
    assert releases * divergence == pytest.approx(2.0 ** -(bits + 7))


def test_released_values_are_multiples_of_a_step_that_does_not_depend_on_them() -> None:
    flood = Flood(bits=1, releases=1, error=2.0**-10)
    found = flood.apply({"y": np.random.default_rng(0).uniform(-1, 1, 1000)}, 1)["y"]
    np.testing.assert_array_equal(found * 2.0**20, np.rint(found * 2.0**20))


def test_normal_variables_have_the_moments_and_tails_of_theirs() -> None:
    """Bounds of six deviations or more: nobody seeds this generator, and the test may fail once in 10^8 runs."""
    x = flooding.gaussian(1 << 18)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - moment) < 6 * math.sqrt(variance / x.size)
    assert abs((np.abs(x) > 2).mean() - math.erfc(math.sqrt(2))) < 0.003
    assert abs((np.abs(x) > 3).mean() - math.erfc(3 / math.sqrt(2))) < 0.0006
    assert abs(np.corrcoef(x[: 1 << 17], x[1 << 17 :])[0, 1]) < 0.02
    assert flooding.gaussian(3).shape == (3,)


@pytest.mark.parametrize("wrong", [(0, 1, 0.1), (65, 1, 0.1), (1, 0, 0.1), (1, 1, 0.0), (1, 1, math.inf)])
def test_impossible_noise_is_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ParameterError, match="out of range"):
        Flood(*wrong)


def test_values_that_no_noise_can_cover_are_refused() -> None:
    for x in (np.array([np.nan]), np.array([2.0**80])):
        with pytest.raises(ExecutionError, match="no noise can be put over"):
            Flood(1, 1, 1.0).apply({"y": x}, 1)
