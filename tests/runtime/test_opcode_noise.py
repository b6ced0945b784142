"""The simulator foretells the noise of every instruction, on SEAL and on the native backend."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.ir.params import Params, make_params, ntt_primes
from pi_compiler.ir.program import Opcode
from pi_compiler.runtime.backend import SHARED_OPCODES, Client, Evaluator, get_backend
from pi_compiler.runtime.native import NativeBackend
from pi_compiler.runtime.native.material import core
from pi_compiler.runtime.sim import SimBackend

P = make_params(13, 3, 40, log_q0=45, log_special=50)
KERNELS = core.instruction_sets() if core is not None else []
NAMES = [
    *(f"native {kernels}" for kernels in KERNELS),
    pytest.param(
        "tenseal", marks=[] if importlib.util.find_spec("tenseal") else pytest.mark.skip("tenseal is not installed")
    ),
]


def values(p: Params, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, p.slots)


@cache
def parts(name: str) -> tuple[Client, Evaluator]:
    backend, kernels = name.split()[0], name.split()[1:]
    made = NativeBackend(threads=1, kernels=kernels[0]) if kernels else get_backend(backend)
    if backend == "sim":
        made = SimBackend(seed=1)
    client = made.keygen(P, (7,))
    return client, made.evaluator(P, client.eval_keys)


def rescaled(ev: Evaluator, x: object) -> object:
    level, scale = ev.type_of(x).level, ev.type_of(x).scale
    return ev.rescale(x, scale / P.primes[level])


Act = Callable[[Evaluator, object, object, Callable[[float], object]], object]
A, B = values(P, 1), values(P, 2)
INSTRUCTIONS: dict[Opcode, tuple[Act, np.ndarray]] = {
    Opcode.ADD: (lambda e, x, y, c: e.add(x, y), A + B),
    Opcode.SUB: (lambda e, x, y, c: e.sub(x, y), A - B),
    Opcode.NEG: (lambda e, x, y, c: e.neg(x), -A),
    Opcode.MUL: (lambda e, x, y, c: e.mul(x, y), A * B),
    Opcode.ADD_PLAIN: (lambda e, x, y, c: e.add_plain(x, c(P.scale)), A + B),
    Opcode.MUL_PLAIN: (lambda e, x, y, c: e.mul_plain(x, c(2.0**20)), A * B),
    Opcode.ROTATE: (lambda e, x, y, c: e.rotate(x, 7), np.roll(A, -7)),
    Opcode.RELINEARIZE: (lambda e, x, y, c: rescaled(e, e.relinearize(e.mul(x, y))), A * B),
    Opcode.RESCALE: (lambda e, x, y, c: rescaled(e, e.mul(x, y)), A * B),
    Opcode.DROP_LEVEL: (lambda e, x, y, c: e.drop_level(x, 0), A),
}


def test_every_shared_instruction_is_tried() -> None:
    assert set(INSTRUCTIONS) == SHARED_OPCODES


def deviation(name: str, op: Opcode) -> float:
    act, exact = INSTRUCTIONS[op]
    client, ev = parts(name)
    runs = []
    for _ in range(4 if name == "sim" else 1):
        x, y = client.encrypt(A, 3, P.scale), client.encrypt(B, 3, P.scale)
        runs.append(client.decrypt(act(ev, x, y, lambda scale: ev.encode(B, 3, scale))) - exact)
    return float(np.std(runs))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("op", INSTRUCTIONS, ids=lambda op: op.name.lower())
def test_noise_is_within_a_factor_of_two_of_the_simulated(name: str, op: Opcode) -> None:
    predicted = deviation("sim", op)
    assert predicted / 2 < deviation(name, op) < 2 * predicted


@pytest.mark.skipif(not KERNELS, reason="the native module is not built")
def test_conjugation_is_as_noisy_as_a_rotation() -> None:
    backend = NativeBackend(threads=1)
    client = backend.keygen(P, (), conjugate=True)
    ev = backend.evaluator(P, client.eval_keys)
    found = client.decrypt(ev.conjugate(client.encrypt(A, 3, P.scale))) - A
    predicted = deviation("sim", Opcode.ROTATE)
    assert predicted / 2 < found.std() < 2 * predicted


@pytest.mark.skipif(not KERNELS, reason="the native module is not built")
@settings(max_examples=20, deadline=None)
@given(
    log_n=st.integers(10, 12),
    levels=st.integers(2, 6),
    bits=st.integers(26, 40),
    specials=st.integers(1, 3),
    kernels=st.sampled_from(KERNELS or [""]),
    seed=st.integers(0, 99),
)
def test_noise_at_random_parameters_is_that_of_the_simulator(
    log_n: int, levels: int, bits: int, specials: int, kernels: str, seed: int
) -> None:
    """A product, a rotation, a constant factor: one after the other, so that each inherits the noise before."""
    p = make_params(
        log_n, levels, bits, log_q0=bits + 6, log_special=min(bits + 9, 49), specials=specials, insecure=True
    )
    a, b = values(p, seed), values(p, seed + 1)
    errors = []
    for backend in (SimBackend(seed=seed), NativeBackend(threads=1, kernels=kernels)):
        client = backend.keygen(p, (3,), insecure=True)
        ev = backend.evaluator(p, client.eval_keys)
        x, y = client.encrypt(a, levels, p.scale), client.encrypt(b, levels, p.scale)
        x = ev.relinearize(ev.mul(x, y))
        x = ev.rotate(ev.rescale(x, p.scale**2 / p.primes[levels]), 3)
        level, scale = levels - 1, ev.type_of(x).scale
        x = ev.mul_plain(x, ev.encode(b, level, float(p.primes[level])))
        errors.append(client.decrypt(ev.rescale(x, scale)) - np.roll(a * b, -3) * b)
    simulated, found = (float(np.std(e)) for e in errors)
    assert simulated / 2 < found < 2 * simulated


ROUND_TRIPS = 1_000_000
POLYS = 4


@pytest.mark.slow
@pytest.mark.skipif(not KERNELS, reason="the native module is not built")
@pytest.mark.parametrize("kernels", KERNELS)
def test_a_million_transforms_are_undone_by_their_inverses(kernels: str) -> None:
    """Over primes of every size, each time on what the transform before gave."""
    primes: list[int] = []
    for bits in range(18, 59 if kernels == "portable" else 50, 3):
        primes += ntt_primes(10, bits, 1, primes)
    chain = primes[:-1]
    r = core.Ring(10, primes, 1, 1, kernels)
    assert r.kernels == kernels
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, q, (POLYS, 1024), np.uint64) for q in chain], axis=1)
    done = 0
    while done < ROUND_TRIPS:
        a = r.load(POLYS, POLYS, len(chain) - 1, False, x)
        r.ntt(a)
        transformed = np.array(a)
        r.intt(a)
        assert np.array_equal(np.asarray(a), x)
        x = transformed
        done += POLYS * len(chain)
