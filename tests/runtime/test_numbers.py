"""Products with numbers, constants that are the same in all slots: what vectors give, for one residue a prime."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from pi_compiler.ir.layout import Layout
from pi_compiler.ir.params import make_params, ntt_primes
from pi_compiler.ir.program import Program
from pi_compiler.kernels.matvec import Split, diagonals, make_plan, matvec, structure, uniform
from pi_compiler.passes.lower import Emit, assemble, number
from pi_compiler.runtime.backend import Evaluator
from pi_compiler.runtime.clear import ClearBackend
from pi_compiler.runtime.executor import Prepared, execute, prepare
from pi_compiler.runtime.fuse import fuse
from pi_compiler.runtime.native import NativeBackend
from pi_compiler.runtime.native.material import core, core_error
from pi_compiler.runtime.sim import Noise

pytestmark = pytest.mark.skipif(core_error() is not None, reason="the native module is not built")

PARAMS = make_params(11, 3, 40, log_q0=46, log_special=48, specials=2, insecure=True)
KERNELS = core.instruction_sets() if core is not None else []
INPUTS = 5
ROTATIONS = (1, 3, 8)
Build = Callable[..., object]


@cache
def parts(kernels: str) -> tuple[object, Evaluator]:
    backend = NativeBackend(threads=2, kernels=kernels)
    client = backend.keygen(PARAMS, ROTATIONS, insecure=True)
    return client, backend.evaluator(PARAMS, client.eval_keys)


@cache
def rows() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (INPUTS, PARAMS.slots))


@cache
def encrypted(kernels: str) -> list[object]:
    return [parts(kernels)[0].encrypt(row, PARAMS.max_level, PARAMS.scale) for row in rows()]


def run(prepared: Prepared, inputs: list[object], client: object) -> np.ndarray:
    out, trace = execute(prepared, {"x": inputs})
    assert sum(t.count for name, t in trace.opcodes().items() if name != "encode") == len(prepared.program)
    return np.stack([client.decrypt(y) for y in out["y"]])


def meaning(program: Program) -> np.ndarray:
    client = ClearBackend().keygen(PARAMS, ROTATIONS, insecure=True)
    ev = ClearBackend().evaluator(PARAMS, client.eval_keys)
    x = [client.encrypt(row, PARAMS.max_level, PARAMS.scale) for row in rows()]
    return run(prepare(program, ev, plaintext_memory=0), x, client)


# ---- Residues ----


@cache
def ring(kernels: str, bits: int) -> tuple[object, list[int]]:
    primes = ntt_primes(10, bits, 3, [])
    return core.Ring(10, primes, 1, 2, kernels), primes[:2]


def limbs(primes: list[int], seed: int, highest: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack(
        [[np.full(1024, q - 1, np.uint64) if highest else rng.integers(0, q, 1024, np.uint64) for q in primes]] * 2
    )


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=20, deadline=None)
@given(inputs=st.integers(1, 40), outputs=st.integers(1, 11), highest=st.booleans(), seed=st.integers(0, 99))
def test_sums_over_the_same_inputs_are_exact(kernels: str, inputs: int, outputs: int, highest: bool, seed: int) -> None:
    """However many terms: sums that are reduced late must not overflow, at the largest primes and residues."""
    bits = 59 if kernels == "portable" else 49
    r, primes = ring(kernels, bits)
    rng = np.random.default_rng(seed)
    x = [limbs(primes, seed + k, highest) for k in range(inputs)]
    w = np.full((outputs, inputs), -1) if highest else rng.integers(-(2**40), 2**40, (outputs, inputs))
    a = [r.load(2, 2, 1, False, v) for v in x]
    weights = [[r.encode(np.array([float(v)]), 1.0, 1) for v in row] for row in w]
    found = r.linear_sums(a, weights, 1)
    for row, z, plain in zip(w.tolist(), found, weights, strict=True):
        single = np.asarray(r.linear_sum([(list(zip(a, plain, strict=True)), None, 1)], 1))
        for i, q in enumerate(primes):
            exact = sum(v % q * y[:, i].astype(object) for v, y in zip(row, x, strict=True)) % q
            np.testing.assert_array_equal(np.asarray(z)[:, i], exact.astype(np.uint64))
            np.testing.assert_array_equal(single[:, i], exact.astype(np.uint64))


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=20, deadline=None)
@given(value=st.integers(-(2**20), 2**20), log_period=st.integers(1, 9), seed=st.integers(0, 9))
def test_a_number_gives_the_residues_of_the_vector_that_it_stands_for(
    kernels: str, value: int, log_period: int, seed: int
) -> None:
    """Encoded exactly both are the same polynomial: a plan with numbers computes what one with vectors did."""
    r, primes = ring(kernels, 40)
    w = np.full(1, value / 2**20)
    one, many = r.encode(w, 2.0**30, 1), r.encode(np.repeat(w, 1 << log_period), 2.0**30, 1)
    a = r.load(2, 2, 1, False, limbs(primes, seed, False))
    wide = r.mul(a, a)
    assert (one.nbytes, many.nbytes) == (16, 32 << log_period)
    for z, y in (
        (r.mul_plain(a, one), r.mul_plain(a, many)),
        (r.mul_plain(wide, one), r.mul_plain(wide, many)),
        (r.add_plain(a, one), r.add_plain(a, many)),
        (r.linear_sum([([(a, one), (a, many)], None, 1)], 1), r.linear_sum([([(a, many), (a, many)], None, 1)], 1)),
    ):
        np.testing.assert_array_equal(np.asarray(z), np.asarray(y))


def test_what_is_no_number_is_refused_where_one_is_needed() -> None:
    r, primes = ring(KERNELS[0], 40)
    a, low, wide = r.empty(2, 1, False), r.empty(2, 0, False), r.empty(3, 1, False)
    one, vector, of_low = r.encode(np.ones(1), 8.0, 1), r.encode(np.ones(4), 8.0, 1), r.encode(np.ones(1), 8.0, 0)
    for inputs, weights in (
        ([], [[]]),
        ([a], []),
        ([a], [[vector]]),
        ([a], [[of_low]]),
        ([a], [[one, one]]),
        ([a, a], [[one, one], [one]]),
        ([low], [[one]]),
        ([wide], [[one]]),
        ([r.empty(2, 1, True)], [[one]]),
        ([None], [[one]]),
        ([a], [[None]]),
    ):
        with pytest.raises((ValueError, TypeError)):
            r.linear_sums(inputs, weights, 1)
    assert len(primes) == 2


# ---- Programs ----


@st.composite
def sums(draw: st.DrawFn) -> list[list[tuple[int, int, int, int]]]:
    """Per output its terms: input, baby step, giant step, log2 of the constant's period."""
    term = st.tuples(
        st.integers(0, INPUTS - 1),
        st.sampled_from([0, 0, 1, 3]),
        st.sampled_from([0, 0, 8]),
        st.sampled_from([0, 0, 3, 10]),
    )
    return draw(st.lists(st.lists(term, min_size=1, max_size=8), min_size=1, max_size=4))


def written(build: Build, outputs: list[list[tuple[int, int, int, int]]]) -> Program:
    b = build(PARAMS, INPUTS)
    rng = np.random.default_rng(0)
    moved: dict[tuple[int, int], int] = {(k, 0): k for k in range(INPUTS)}
    results = []
    for terms in outputs:
        by_giant: dict[int, list[int]] = {}
        for k, baby, giant, log_period in terms:
            if (k, baby) not in moved:
                moved[k, baby] = b.rotate(k, baby)
            product = b.mul_plain(moved[k, baby], rng.uniform(-1, 1, 1 << log_period))
            by_giant.setdefault(giant, []).append(product)
        total = None
        for giant, products in by_giant.items():
            part = products[0]
            for p in products[1:]:
                part = b.add(part, p)
            part = b.rotate(part, giant) if giant else part
            total = part if total is None else b.add(total, part)
        results.append(b.rescale(total))
    return b.program(*results)


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=20, deadline=None)
@given(outputs=sums(), memory=st.sampled_from([0, 1 << 26]), fused=st.booleans())
def test_sums_of_numbers_and_vectors_mean_what_the_clear_program_means(
    build: Build, kernels: str, outputs: list[list[tuple[int, int, int, int]]], memory: int, fused: bool
) -> None:
    program = written(build, outputs)
    client, ev = parts(kernels)
    found = run(prepare(program, ev, plaintext_memory=memory, fused=fused), encrypted(kernels), client)
    np.testing.assert_allclose(found, meaning(program), atol=2.0**-20)


def dense(build: Build, outputs: int, period: int, extra: bool = False) -> Program:
    """Every output a sum over all inputs; with ``extra``, plus something that is no product."""
    b = build(PARAMS, INPUTS)
    rng = np.random.default_rng(2)
    other = b.mul_plain(0, rng.uniform(-1, 1, 8)) if extra else -1
    results = []
    for _ in range(outputs):
        total = b.mul_plain(0, np.repeat(rng.uniform(-1, 1, 1), period))
        for k in range(1, INPUTS):
            total = b.add(total, b.mul_plain(k, np.repeat(rng.uniform(-1, 1, 1), period)))
        results.append(b.rescale(b.add(total, b.neg(other)) if extra else total))
    return b.program(*results)


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("outputs", [1, 2, 7, 40])
def test_sums_over_the_same_values_are_made_together(build: Build, outputs: int, extra: bool) -> None:
    """All of a dense layer's inputs are read once for many of its outputs, and let go when the last were made."""
    program = dense(build, outputs, 1, extra)
    found = fuse(program)
    assert len(found.sums) == outputs
    assert sorted(len(g.roots) for g in found.groups.values()) == [n for n in (outputs % 32, 32) if 1 < n <= outputs]
    client, ev = parts(KERNELS[0])
    prepared = prepare(program, ev, plaintext_memory=1 << 24)
    out, trace = execute(prepared, {"x": list(encrypted(KERNELS[0]))})
    answers = np.stack([client.decrypt(y) for y in out["y"]])
    np.testing.assert_allclose(answers, meaning(program), atol=2.0**-20)
    assert INPUTS + outputs <= trace.peak_ciphertexts <= INPUTS + outputs + 3
    assert trace.pooled_ciphertext_bytes >= trace.peak_ciphertext_bytes


def test_vectors_rotations_and_other_values_are_summed_by_themselves(build: Build) -> None:
    assert not fuse(dense(build, 3, 4)).groups
    terms = [(0, 0, 0, 0), (1, 0, 0, 0)]
    for other in ((2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 8, 0), (1, 0, 0, 3)):
        assert not fuse(written(build, [terms, [terms[0], other]])).groups, other
    assert len(fuse(written(build, [terms, terms])).groups) == 1


def test_a_number_is_encoded_no_less_precisely_than_a_vector(build: Build) -> None:
    """One rounding instead of one for each coefficient."""
    client, ev = parts(KERNELS[0])
    errors = []
    for period in (1, PARAMS.slots):
        program = dense(build, 4, period)
        prepared = prepare(program, ev, plaintext_memory=1 << 26)
        errors.append(run(prepared, encrypted(KERNELS[0]), client) - meaning(program))
    assert errors[0].std() < 1.1 * errors[1].std()
    w, scale = 0.123456789, 2.0**20
    x = client.encrypt(np.zeros(1), 2, 2.0**25)
    for period in (1, PARAMS.slots):
        z = client.decrypt(
            ev.add_plain(ev.mul_plain(x, ev.encode(np.zeros(1), 2, scale)), ev.encode(np.full(period, w), 2, 2.0**45))
        )
        assert np.abs(z - w).max() < 2.0**-45 * (1 + 6 * Noise(PARAMS).encode(period))


# ---- A dense layer on a ciphertext per feature ----


def layer(features: int, tokens: int) -> tuple[Program, np.ndarray, np.ndarray]:
    """A program of the kernels, its input (ciphertexts, slots) and what it should give, without padding."""
    p = PARAMS
    rng = np.random.default_rng(5)
    index = np.full((features, p.slots), -1)
    index[:, :tokens] = np.arange(tokens)[None] * features + np.arange(features)[:, None]
    layout = Layout((tokens, features), p.slots, index)
    weights = rng.uniform(-1, 1, (features, features)) / features
    matrices = [sparse.csr_array(sparse.kron(sparse.eye_array(tokens), weights))]
    s = structure(matrices, [layout], layout)
    one = uniform(s, matrices, [layout], layout)
    plan = make_plan(s, Split(1, 0, 0, 0, 0.0), (0,), np.zeros((features, 1)), one)
    emit = Emit(p, 1)
    emit.enter("dense")
    x = [emit.input(p.max_level) for _ in range(features)]
    y = matvec(emit, [x], plan, diagonals(plan, matrices, [layout], layout), p.max_level)
    program = assemble(emit, {"x": tuple(map(number, x))}, {"y": tuple(map(number, y))})
    values = rng.uniform(-1, 1, (tokens, features))
    return program, layout.pack(values), layout.pack(values @ weights.T)


def test_a_dense_layer_on_a_ciphertext_per_feature_keeps_little_and_prepares_everything() -> None:
    """As vectors these constants would take 2^11 times the memory, and none of them would be made beforehand."""
    features, tokens = 24, 17
    program, x, expected = layer(features, tokens)
    client, ev = parts(KERNELS[0])
    held = 8 * (PARAMS.max_level + 1 + len(PARAMS.special)) * features**2
    prepared = prepare(program, ev, plaintext_memory=held)
    assert not prepared.fusion.late
    assert prepared.plaintext_bytes == held
    assert None not in prepared.plaintexts
    assert [len(g.roots) for g in prepared.fusion.groups.values()] == [features]
    inputs = [client.encrypt(row, PARAMS.max_level, PARAMS.scale) for row in x]
    out, _ = execute(prepared, {"x": inputs})
    found = np.stack([client.decrypt(y) for y in out["y"]])
    np.testing.assert_allclose(found, expected, atol=2.0**-20)


def test_numbers_are_made_beforehand_where_vectors_do_not_fit(build: Build) -> None:
    """They take next to nothing: late vectors are no reason to encode numbers at each use."""
    b = build(PARAMS, 2)
    total = b.add(b.mul_plain(0, rows()[0]), b.mul_plain(1, np.full(1, 0.5)))
    total = b.add(total, b.mul_plain(1, np.full(1, 0.25)))
    _, ev = parts(KERNELS[0])
    prepared = prepare(b.program(b.rescale(total)), ev, plaintext_memory=1000)
    assert prepared.fusion.late
    assert [p is None for p in prepared.plaintexts] == [True, False, False]
