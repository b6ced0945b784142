"""Every backend gives a program the meaning that ``clear`` gives it, and refuses what it refuses."""

from __future__ import annotations

import gc
import importlib.util
import json
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from pi_compiler.errors import ArtifactError, ExecutionError, ParameterError, PiError, UnsupportedInstruction
from pi_compiler.ir.params import Params, make_params
from pi_compiler.ir.program import Opcode
from pi_compiler.runtime.backend import BACKENDS, Client, Evaluator, get_backend, require
from pi_compiler.runtime.executor import execute, prepare
from pi_compiler.runtime.sim import NEGLIGIBLE, Noise

HAS_TENSEAL = importlib.util.find_spec("tenseal") is not None
NAMES = [
    pytest.param(name, marks=[] if name != "tenseal" or HAS_TENSEAL else pytest.mark.skip("tenseal is not installed"))
    for name in BACKENDS
]
PARAMS = make_params(13, 5, 26, log_q0=36, log_special=50)
ROTATIONS = (1, 5, -3, 2048, 4095)
BOUND = 2.0**-11
"""Far above the noise of one operation at scale 2^26 (2^-15), far below any wrong answer."""


@cache
def parts(name: str) -> tuple[Client, Evaluator]:
    backend = get_backend(name)
    client = backend.keygen(PARAMS, ROTATIONS)
    return client, backend.evaluator(PARAMS, client.eval_keys)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def slots(seed: int, period: int = PARAMS.slots) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, period)


def full(values: np.ndarray) -> np.ndarray:
    return np.tile(values, PARAMS.slots // values.size)


def check(client: Client, ciphertext: object, expected: np.ndarray) -> None:
    found = client.decrypt(ciphertext)
    assert found.shape == (PARAMS.slots,)
    np.testing.assert_allclose(found, full(expected), atol=BOUND)


@pytest.mark.parametrize("level", [5, 2, 0])
@pytest.mark.parametrize("period", [4096, 64, 1])
def test_what_is_encrypted_at_any_level_and_period_is_decrypted(name: str, level: int, period: int) -> None:
    client, ev = parts(name)
    x = client.encrypt(slots(1, period), level, PARAMS.scale)
    assert ev.type_of(x) == replace(ev.type_of(x), level=level, scale=PARAMS.scale, dimension=2)
    check(client, x, slots(1, period))


@pytest.mark.parametrize("level", [5, 0])
def test_third_parties_encrypt_with_the_public_key_and_only_the_owner_decrypts(
    name: str, level: int, tmp_path: Path
) -> None:
    client, ev = parts(name)
    client.public_key.save(tmp_path / "public")
    public = get_backend(name).load_public_key(PARAMS, tmp_path / "public")
    x, y = public.encrypt(slots(1), level, PARAMS.scale), client.encrypt(slots(2, 64), level, PARAMS.scale)
    assert ev.type_of(x) == ev.type_of(y)
    check(client, ev.add(ev.rotate(x, 5), y), np.roll(slots(1), -5) + full(slots(2, 64)))


@pytest.mark.parametrize("level", [5, 1, 0])
def test_sums_differences_and_negation(name: str, level: int) -> None:
    client, ev = parts(name)
    a, b = slots(1), slots(2, 256)
    x, y = (client.encrypt(v, level, PARAMS.scale) for v in (a, b))
    check(client, ev.add(x, y), a + full(b))
    check(client, ev.sub(y, x), full(b) - a)
    check(client, ev.neg(x), -a)
    check(client, ev.add(x, x), 2 * a)


@pytest.mark.parametrize("level", [5, 1])
def test_a_product_has_dimension_3_until_relinearized(name: str, level: int) -> None:
    client, ev = parts(name)
    a, b = slots(1), slots(2)
    x, y = (client.encrypt(v, level, PARAMS.scale) for v in (a, b))
    wide = ev.mul(x, y)
    assert ev.type_of(wide).dimension == 3
    assert ev.type_of(wide).scale == PARAMS.scale**2
    check(client, wide, a * b)
    narrow = ev.relinearize(wide)
    assert ev.type_of(narrow).dimension == 2
    check(client, narrow, a * b)
    scale = PARAMS.scale**2 / PARAMS.primes[level]
    check(client, ev.rescale(narrow, scale), a * b)


def test_a_value_times_itself_is_a_square(name: str) -> None:
    client, ev = parts(name)
    x = client.encrypt(slots(1), 3, PARAMS.scale)
    check(client, ev.mul(x, x), slots(1) ** 2)


def test_dimension_3_takes_part_in_everything_but_products_and_rotations(name: str) -> None:
    client, ev = parts(name)
    a = slots(1)
    x = client.encrypt(a, 3, PARAMS.scale)
    wide = ev.mul(x, x)
    scale = PARAMS.scale**2
    narrow = ev.mul_plain(x, ev.encode(a, 3, PARAMS.scale))
    check(client, ev.add(wide, narrow), 2 * a**2)
    check(client, ev.sub(narrow, wide), 0 * a)
    check(client, ev.neg(wide), -(a**2))
    check(client, ev.add_plain(wide, ev.encode(a, 3, scale)), a**2 + a)
    check(client, ev.mul_plain(wide, ev.encode(np.array([0.5]), 3, PARAMS.scale)), a**2 / 2)
    check(client, ev.drop_level(wide, 2), a**2)
    small = ev.rescale(wide, scale / PARAMS.primes[3])
    assert ev.type_of(small).dimension == 3
    found = client.decrypt(ev.relinearize(small))
    # Rounding the third polynomial is multiplied by the secret's square: 2^17.6 in the slots.
    np.testing.assert_allclose(found, a**2, atol=2.0**-4)


@pytest.mark.parametrize("level", [5, 0])
def test_plaintext_operands_of_any_period(name: str, level: int) -> None:
    client, ev = parts(name)
    a = slots(1)
    x = client.encrypt(a, level, PARAMS.scale)
    for period in (4096, 128, 1):
        c = slots(3, period)
        check(client, ev.add_plain(x, ev.encode(c, level, PARAMS.scale)), a + full(c))
        if level:
            y = ev.mul_plain(x, ev.encode(c, level, float(PARAMS.primes[level])))
            z = ev.rescale(y, PARAMS.scale)
            assert ev.type_of(z).level == level - 1
            assert ev.type_of(z).scale == PARAMS.scale
            check(client, z, a * full(c))


def test_a_product_with_zero_is_zero(name: str) -> None:
    client, ev = parts(name)
    x = client.encrypt(slots(1), 2, PARAMS.scale)
    for zero in (np.zeros(1), np.zeros(64), np.full(4096, 1e-30)):
        y = ev.mul_plain(x, ev.encode(zero, 2, float(PARAMS.primes[2])))
        check(client, ev.rescale(y, PARAMS.scale), np.zeros(1))


@pytest.mark.parametrize("by", [*ROTATIONS, -4095, 1 - 4096, 0, 4096, -8192, 4096 + 5])
def test_after_a_rotation_slot_i_holds_what_was_in_slot_i_plus_k(name: str, by: int) -> None:
    client, ev = parts(name)
    a = slots(1)
    check(client, ev.rotate(client.encrypt(a, 4, PARAMS.scale), by), np.roll(a, -by))


@pytest.mark.parametrize("period", [1, 4, 512])
def test_rotations_of_periodic_vectors(name: str, period: int) -> None:
    client, ev = parts(name)
    a = slots(1, period)
    check(client, ev.rotate(client.encrypt(a, 1, PARAMS.scale), 5), np.roll(a, -5))


def test_levels_can_be_dropped_several_at_once(name: str) -> None:
    client, ev = parts(name)
    x = client.encrypt(slots(1), 5, PARAMS.scale)
    for level in (5, 3, 0):
        y = ev.drop_level(x, level)
        assert ev.type_of(y).level == level
        check(client, y, slots(1))


REFUSED: dict[str, tuple[Callable[[Client, Evaluator, object], object], str]] = {
    "levels of a sum": (lambda c, e, x: e.add(x, e.drop_level(x, 1)), "different levels: 3 and 1"),
    "levels of a product": (lambda c, e, x: e.mul(x, e.drop_level(x, 1)), "different levels: 3 and 1"),
    "scales": (lambda c, e, x: e.sub(x, c.encrypt(slots(2), 3, 2 * PARAMS.scale)), "different scales"),
    "level of a constant": (lambda c, e, x: e.mul_plain(x, e.encode(slots(2), 2, 2.0**20)), "level 2, the ciphertext"),
    "scale of a constant": (lambda c, e, x: e.add_plain(x, e.encode(slots(2), 3, 2.0**20)), "different scales"),
    "cube": (lambda c, e, x: e.mul(x, e.mul(x, x)), "not relinearized"),
    "rotation of dimension 3": (lambda c, e, x: e.rotate(e.mul(x, x), 1), "relinearize first"),
    "rotation without key": (lambda c, e, x: e.rotate(x, 7), "no key for the rotation by 7"),
    "relinearize dimension 2": (lambda c, e, x: e.relinearize(x), "dimension 3"),
    "rescale at level 0": (lambda c, e, x: e.rescale(e.drop_level(x, 0), 1.0), "no level is left"),
    "rescale to another scale": (lambda c, e, x: e.rescale(x, PARAMS.scale), "rescaling gives scale"),
    "raise the level": (lambda c, e, x: e.drop_level(x, 4), "from level 3 to level 4"),
    "scale too large": (lambda c, e, x: e.encode(slots(2), 0, 2.0**40), "does not fit the modulus"),
    "product too large": (lambda c, e, x: e.mul(*[e.drop_level(x, 0)] * 2), "does not fit the modulus"),
    "no such level": (lambda c, e, x: e.encode(slots(2), 6, 2.0**20), "there is no level 6"),
    "negative scale": (lambda c, e, x: e.encode(slots(2), 3, -1.0), "does not fit"),
    "period": (lambda c, e, x: e.encode(np.ones(3), 3, PARAMS.scale), "does not repeat"),
    "empty": (lambda c, e, x: c.encrypt(np.ones(0), 3, PARAMS.scale), "does not repeat"),
    "not finite": (lambda c, e, x: c.encrypt(np.array([1.0, np.nan]), 3, PARAMS.scale), "not finite"),
    "infinite constant": (lambda c, e, x: e.encode(np.array([np.inf]), 3, PARAMS.scale), "not finite"),
    "foreign ciphertext": (lambda c, e, x: e.add(x, "x"), "cannot compute with a str"),
    "foreign plaintext": (lambda c, e, x: e.mul_plain(x, x), "cannot compute with a"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_ckks_cannot_do_is_refused_in_the_same_words(name: str, case: str) -> None:
    client, ev = parts(name)
    act, message = REFUSED[case]
    x = client.encrypt(slots(1), 3, PARAMS.scale)
    with pytest.raises(ExecutionError, match=message):
        act(client, ev, x)


def random_program(builder: object, steps: list[tuple[int, int, int]], seed: int) -> object:
    """Whatever of the steps applies; magnitudes stay below 2^6."""
    rng = np.random.default_rng(seed)
    bounds = [1.0, 1.0]
    for choice, i, j in steps:
        op, b = Opcode(choice), j % len(bounds)
        a = len(bounds) - 1 - i % min(len(bounds), 3)  # mostly go on with what is new
        (level, scale, dim), other = builder.types[a], builder.types[b]
        double = scale > 2**40
        period = 4 ** (j % 7)
        values = rng.uniform(-1, 1, period)
        if op in (Opcode.ADD, Opcode.SUB) and a != b and other[:2] == (level, scale) and bounds[a] + bounds[b] < 64:
            builder.add(a, b) if op is Opcode.ADD else builder.sub(a, b)
            bounds.append(bounds[a] + bounds[b])
        elif op is Opcode.NEG:
            builder.neg(a)
            bounds.append(bounds[a])
        elif (
            op is Opcode.MUL and dim == other[2] == 2 and level == other[0] > 0
            and scale * other[1] < 2**62 and bounds[a] * bounds[b] < 64
        ):  # fmt: skip
            builder.mul(a, b)
            bounds.append(bounds[a] * bounds[b])
        elif op is Opcode.ADD_PLAIN and bounds[a] < 63:
            builder.add_plain(a, values)
            bounds.append(bounds[a] + 1)
        elif op is Opcode.MUL_PLAIN and not double and level > 0:
            builder.mul_plain(a, values)
            bounds.append(bounds[a])
        elif op is Opcode.ROTATE and dim == 2:
            builder.rotate(a, ROTATIONS[j % len(ROTATIONS)])
            bounds.append(bounds[a])
        elif op is Opcode.RELINEARIZE and dim == 3:
            builder.relinearize(a)
            bounds.append(bounds[a])
        elif op is Opcode.RESCALE and double and level > 0 and dim == 2:
            builder.rescale(a)
            bounds.append(bounds[a])
        elif op is Opcode.DROP_LEVEL and not double and level > 0:
            builder.drop_level(a, j % level)
            bounds.append(bounds[a])
    return builder.program(len(bounds) - 1)


STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 99)), min_size=4, max_size=40)


@pytest.mark.skipif(not HAS_TENSEAL, reason="tenseal is not installed")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_random_programs_are_off_by_the_simulated_noise(
    build: Callable[..., object], steps: list[tuple[int, int, int]], seed: int
) -> None:
    program = random_program(build(PARAMS, 2), steps, seed)
    found = {}
    for backend in ("clear", "sim", "tenseal"):
        client, ev = parts(backend)
        x = [client.encrypt(slots(seed + k), 5, PARAMS.scale) for k in range(2)]
        try:
            out, trace = execute(prepare(program, ev, plaintext_memory=1 << 20), {"x": x})
        except ExecutionError as error:
            if backend == "tenseal" and "zero whatever the input" in str(error):
                reject()
            raise
        found[backend] = client.decrypt(out["y"][0])
        assert sum(t.count for name, t in trace.opcodes().items() if name != "encode") == len(program)
    predicted = (found["sim"] - found["clear"]).std()
    measured = (found["tenseal"] - found["clear"]).std()
    # Where a difference cancels all else, what the simulator leaves out as negligible remains.
    omitted = len(program) * NEGLIGIBLE * Noise(PARAMS).rescale() / PARAMS.scale
    assert predicted / 2 - omitted < measured < 2 * predicted + omitted


@pytest.mark.skipif(not HAS_TENSEAL, reason="tenseal is not installed")
def test_keys_and_ciphertexts_cross_processes_without_the_secret(build: Callable[..., object], tmp_path: Path) -> None:
    client, _ = parts("tenseal")
    b = build(PARAMS)
    y = b.rescale(b.relinearize(b.mul(0, 0)))
    program = b.program(b.add(y, b.rotate(y, -3)))
    written = client.save_eval_keys(tmp_path / "keys")
    files = sorted(p.name for p in (tmp_path / "keys").iterdir())
    assert files == ["keys.json", "relinearize.seal", "rotations.seal"]
    assert written == sum(p.stat().st_size for p in (tmp_path / "keys").iterdir())
    assert written < 0.55 * client.eval_keys.nbytes
    client.encrypt_to(tmp_path / "x.ct", slots(1), 5, PARAMS.scale)
    (tmp_path / "program").write_bytes(pickle.dumps((PARAMS, program)))
    script = """
import pickle, sys
from pathlib import Path
from pi_compiler.runtime.backend import get_backend
from pi_compiler.runtime.executor import execute, prepare
folder = Path(sys.argv[1])
params, program = pickle.loads((folder / "program").read_bytes())
backend = get_backend("tenseal")
evaluator = backend.evaluator(params, backend.load_keys(params, folder / "keys"))
out, _ = execute(prepare(program, evaluator, plaintext_memory=0), {"x": [evaluator.load_ciphertext(folder / "x.ct")]})
evaluator.save_ciphertext(out["y"][0], folder / "y.ct")
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120)
    squares = slots(1) ** 2
    check(client, client.load_ciphertext(tmp_path / "y.ct"), squares + np.roll(squares, 3))


@pytest.mark.skipif(not HAS_TENSEAL, reason="tenseal is not installed")
def test_nothing_that_the_evaluator_reaches_holds_the_secret() -> None:
    from tenseal import sealapi

    from pi_compiler.runtime.tenseal import TensealClient

    secret = (sealapi.SecretKey, sealapi.KeyGenerator, sealapi.Encryptor, sealapi.Decryptor, TensealClient)
    client, ev = parts("tenseal")
    assert reaches(client, secret)
    assert not reaches(ev, secret)
    assert not reaches(client.eval_keys, secret)


def reaches(start: object, kinds: tuple[type, ...]) -> bool:
    seen, todo = set(), [start]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(thing))
        if isinstance(thing, kinds):
            return True
        todo += gc.get_referents(thing)
    return False


def test_keys_and_ciphertexts_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    backend = get_backend(name)
    client, ev = parts(name)
    client.save(tmp_path / "secret")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    client.save_eval_keys(tmp_path / "keys")
    again = backend.load_client(PARAMS, tmp_path / "secret", ROTATIONS)
    keys = backend.load_keys(PARAMS, tmp_path / "keys")
    assert keys.rotations == client.eval_keys.rotations == again.eval_keys.rotations == {1, 5, 4093, 2048, 4095}
    assert keys.nbytes == client.eval_keys.nbytes
    ev2 = backend.evaluator(PARAMS, keys)
    x = client.encrypt(slots(1), 2, PARAMS.scale)
    client.save_ciphertext(x, tmp_path / "x")
    short = client.encrypt_to(tmp_path / "short", slots(1), 2, PARAMS.scale)
    assert short == (tmp_path / "short").stat().st_size
    for file in ("x", "short"):
        y = ev2.load_ciphertext(tmp_path / file)
        assert ev2.type_of(y) == ev.type_of(x)
        check(again, ev2.rotate(y, -3), np.roll(slots(1), 3))


def test_only_the_keys_that_a_program_needs_are_made(name: str, tmp_path: Path) -> None:
    backend = get_backend(name)
    client = backend.keygen(PARAMS, (0, PARAMS.slots), relinearize=False)
    assert client.eval_keys.rotations == frozenset()
    assert client.eval_keys.nbytes == 0
    client.save_eval_keys(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["keys.json"]
    ev = backend.evaluator(PARAMS, backend.load_keys(PARAMS, tmp_path))
    x = client.encrypt(slots(1), 2, PARAMS.scale)
    with pytest.raises(ExecutionError, match="no relinearization key"):
        ev.relinearize(ev.mul(x, x))


def test_a_secret_key_is_never_overwritten(name: str, tmp_path: Path) -> None:
    client, _ = parts(name)
    client.save(tmp_path / "secret")
    before = (tmp_path / "secret").read_bytes()
    with pytest.raises(PiError, match="never overwritten"):
        client.save(tmp_path / "secret")
    assert (tmp_path / "secret").read_bytes() == before


def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    backend = get_backend(name)
    client, ev = parts(name)
    client.save(tmp_path / "secret")
    client.save_ciphertext(client.encrypt(slots(1), 2, PARAMS.scale), tmp_path / "x")
    client.save_eval_keys(tmp_path / "keys")
    readers: dict[Path, Callable[[], object]] = {
        tmp_path / "secret": lambda: backend.load_client(PARAMS, tmp_path / "secret"),
        tmp_path / "x": lambda: ev.load_ciphertext(tmp_path / "x"),
    }
    for file in (tmp_path / "keys").iterdir():
        readers[file] = lambda: backend.load_keys(PARAMS, tmp_path / "keys")
    for file, read in readers.items():
        read()
        whole = file.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 0x80]) + whole[middle + 1 :]
        for damaged in (b"", whole[:7], whole[:40], whole[:middle], whole[:-1], flipped, b"\0" * len(whole)):
            file.write_bytes(damaged)
            with pytest.raises(PiError):
                read()
        file.unlink()
        with pytest.raises(PiError, match=r"cannot read|no evaluation keys"):
            read()
        file.write_bytes(whole)


def test_keys_for_other_parameters_are_refused(name: str, tmp_path: Path) -> None:
    backend = get_backend(name)
    client, _ = parts(name)
    client.save_eval_keys(tmp_path)
    other = make_params(13, 4, 26, log_q0=36, log_special=50)
    with pytest.raises(ExecutionError, match="other parameters"):
        backend.load_keys(other, tmp_path)


def test_keys_from_a_newer_version_are_refused(name: str, tmp_path: Path) -> None:
    client, _ = parts(name)
    client.save_eval_keys(tmp_path)
    manifest = tmp_path / "keys.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(ArtifactError, match="newer version"):
        get_backend(name).load_keys(PARAMS, tmp_path)


@pytest.mark.skipif(not HAS_TENSEAL, reason="tenseal is not installed")
class TestSeal:
    def test_an_intact_file_of_the_wrong_kind_is_refused(self, tmp_path: Path) -> None:
        client, ev = parts("tenseal")
        client.save(tmp_path / "secret")
        with pytest.raises(ArtifactError, match="not a ciphertext"):
            ev.load_ciphertext(tmp_path / "secret")

    def test_ciphertexts_of_another_ring_are_refused(self, tmp_path: Path) -> None:
        _, ev = parts("tenseal")
        other = make_params(13, 4, 28, log_q0=36, log_special=50)
        client = get_backend("tenseal").keygen(other, ())
        client.encrypt_to(tmp_path / "x", slots(1), 3, PARAMS.scale)
        with pytest.raises(ArtifactError, match="for these parameters"):
            ev.load_ciphertext(tmp_path / "x")

    def test_insecure_parameters_need_to_be_asked_for(self, tmp_path: Path) -> None:
        backend = get_backend("tenseal")
        params = make_params(12, 3, 30, log_q0=40, log_special=40, insecure=True)
        for security in (0, 128):
            claimed = replace(params, security=security)
            with pytest.raises(ParameterError, match="less than 128-bit security"):
                backend.keygen(claimed, ())
        client = backend.keygen(params, (), insecure=True)
        client.save_eval_keys(tmp_path)
        with pytest.raises(ParameterError, match="less than 128-bit security"):
            backend.load_keys(params, tmp_path)
        assert backend.load_keys(params, tmp_path, insecure=True).relinearize

    def test_sizes_are_exact(self) -> None:
        client, ev = parts("tenseal")
        x = client.encrypt(slots(1), 3, PARAMS.scale)
        assert ev.ciphertext_bytes(x) == PARAMS.ciphertext_bytes(3) == 8 * 2 * 4 * 8192
        assert ev.ciphertext_bytes(ev.mul(x, x)) == PARAMS.ciphertext_bytes(3, 3)
        assert ev.plaintext_bytes(ev.encode(slots(1), 3, PARAMS.scale)) == PARAMS.ciphertext_bytes(3, 1)
        digits = len(client.eval_keys.galois.key(3))
        assert client.eval_keys.nbytes == (5 + 1) * digits * 2 * 7 * 8192 * 8

    def test_a_value_minus_itself_says_what_is_wrong(self) -> None:
        client, ev = parts("tenseal")
        x = client.encrypt(slots(1), 3, PARAMS.scale)
        with pytest.raises(ExecutionError, match="zero whatever the input"):
            ev.sub(x, x)

    def test_a_constant_beyond_the_modulus_is_refused(self) -> None:
        _, ev = parts("tenseal")
        with pytest.raises(ExecutionError, match="cannot encode values up to 1e\\+12"):
            ev.encode(np.full(4096, 1e12), 0, PARAMS.scale)

    def test_keys_of_another_backend_are_refused(self) -> None:
        with pytest.raises(ExecutionError, match="cannot use keys of type NoKeys"):
            get_backend("tenseal").evaluator(PARAMS, parts("clear")[0].eval_keys)

    def test_rings_beyond_its_table_are_refused_before_any_key(self, build: Callable[..., object]) -> None:
        params = Params(16, PARAMS.primes, PARAMS.special, PARAMS.scale, 128)
        program = build(params).program(0)
        with pytest.raises(ParameterError, match="ring degree 2\\^16, at most 2\\^15"):
            require(get_backend("tenseal"), program, params)


def test_missing_keys_are_named_before_the_run(name: str, build: Callable[..., object]) -> None:
    b = build(PARAMS)
    program = b.program(b.rotate(b.rotate(0, 9), -9))
    with pytest.raises(ExecutionError, match="2 rotation keys are missing: 9, 4087"):
        require(get_backend(name), program, PARAMS, parts(name)[0].eval_keys)


def test_unknown_instructions_are_named_before_the_run(name: str, build: Callable[..., object]) -> None:
    b = build(PARAMS)
    program = b.program(b.emit(Opcode.BOOTSTRAP, 0, b.types[0]))
    with pytest.raises(UnsupportedInstruction, match="no instruction bootstrap"):
        require(get_backend(name), program, PARAMS)


def test_files_that_cannot_be_written_are_reported(name: str, tmp_path: Path) -> None:
    client, ev = parts(name)
    x = client.encrypt(slots(1), 2, PARAMS.scale)
    (tmp_path / "file").write_text("in the way")
    for act in (
        lambda: client.save(tmp_path / "no" / "folder"),
        lambda: client.save_eval_keys(tmp_path / "file"),
        lambda: ev.save_ciphertext(x, tmp_path / "no" / "folder"),
        lambda: client.encrypt_to(tmp_path / "file" / "x", slots(1), 2, PARAMS.scale),
    ):
        with pytest.raises(PiError, match="cannot write"):
            act()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@settings(max_examples=60, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=40),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.dictionaries(
                    st.sampled_from(["version", "backend", "log_n", "primes", "rotations", "relinearize"]), inner
                )
                | st.lists(inner, max_size=3)
            ),
        ).map(json.dumps),
    )
)
def test_any_other_manifest_is_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(PiError):
        get_backend("clear").load_keys(PARAMS, folder)
