"""The ring arithmetic that MPC programs mean: exact where it says so, and as wrong as two shares are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pi_compiler.errors import InternalError
from pi_compiler.ir.mpc_meaning import product
from pi_compiler.ir.mpc_program import MpcConst, MpcInstr, MpcOp, MpcPort, MpcProgram, check, decode, encode
from pi_compiler.runtime.mpc.sim import FloatEngine, RingEngine
from pi_compiler.runtime.mpc.walk import execute

RING = st.integers(-(2**63), 2**63 - 1)


def program(*instrs: MpcInstr, consts: tuple[MpcConst, ...] = (), indices: tuple = ()) -> MpcProgram:
    """The last instruction's value is revealed under the name y; every INPUT is called x0, x1 ..."""
    last = instrs[-1]
    reveal = MpcInstr(MpcOp.REVEAL, (len(instrs) - 1,), last.shape, last.frac, 0, attrs={"to": (1,)})
    ports = {f"x{n}": MpcPort(n, i.shape) for n, i in enumerate(instrs) if i.op is MpcOp.INPUT}
    outputs = {"y": MpcPort(len(instrs), last.shape)}
    made = MpcProgram((*instrs, reveal), consts, indices, ports, outputs, ("layer",), "crypten-ttp")
    check(made)
    return made


def ring(made: MpcProgram, truncation: str = "local", **inputs: np.ndarray) -> np.ndarray:
    engine = RingEngine(made, truncation, np.random.default_rng(5))
    return execute(made, engine, inputs)[0]["y"]


@given(arrays(np.int64, 7, elements=RING), arrays(np.int64, 7, elements=RING))
def test_sums_and_products_are_those_of_integers_modulo_two_to_the_64(a, b):
    """Shares add up only if everything wraps around."""
    wrap = [(int(x) * int(y) + int(x) - int(y)) % 2**64 for x, y in zip(a, b, strict=True)]
    assert [int(v) % 2**64 for v in a * b + a - b] == wrap


@given(st.integers(0, 60), st.integers(1, 6), st.integers(1, 6))
def test_matrix_products_through_floats_equal_those_of_integers(bits, rows, columns):
    """The simulator's fast path may not cost a single bit, whatever the size of the numbers."""
    rng = np.random.default_rng(bits)
    a = rng.integers(-(2**bits), 2**bits, (2, rows, 5))
    b = rng.integers(-(2**bits), 2**bits, (5, columns))
    assert (product(a, b) == a @ b).all()


@given(st.floats(-1e6, 1e6), st.integers(4, 30))
def test_a_number_survives_encoding_within_half_a_unit(value, frac):
    assert abs(decode(encode(value, frac), frac) - value) <= 2.0 ** -(frac + 1)


def test_numbers_beyond_the_ring_are_refused():
    with pytest.raises(InternalError, match="do not fit"):
        encode(1e15, 16)


@settings(max_examples=30)
@given(st.integers(-(2**40), 2**40), st.integers(1, 24), st.sampled_from(["local", "interactive"]))
def test_truncation_is_off_by_at_most_one_unit(value, bits, truncation):
    """For values this small a wrap-around has probability 2^-23 at most per value."""
    x = MpcInstr(MpcOp.INPUT, (), (64,), 0, 0)
    cut = MpcInstr(MpcOp.TRUNCATE, (0,), (64,), -bits, 0, attrs={"bits": (bits,)})
    made = program(x, cut)
    found = ring(made, truncation, x0=np.full((1, 64), float(value))) * 2.0**-bits
    assert (np.abs(found - value / 2.0**bits) <= 1.0).all()


def test_local_truncation_wraps_as_often_as_the_shares_do():
    """|x| / 2^64: the number that the wrap budget of a plan is made of."""
    size, count = 2.0**58, 200_000
    x = MpcInstr(MpcOp.INPUT, (), (count,), 0, 0)
    made = program(x, MpcInstr(MpcOp.TRUNCATE, (0,), (count,), -16, 0, attrs={"bits": (16,)}))
    error = np.abs(ring(made, x0=np.full((1, count), size)) * 2.0**-16 - size * 2.0**-16)
    wrapped = error > 2.0
    expected = count * 2.0**-6
    assert abs(int(wrapped.sum()) - expected) < 6 * np.sqrt(expected)
    assert (np.abs(error[wrapped] - 2.0**48) <= 1.0).all()
    assert (ring(made, "interactive", x0=np.full((1, count), size)) * 2.0**-16 - size * 2.0**-16 <= 1.0).all()


def test_a_sign_without_its_low_bits_errs_as_often_as_circa_says():
    """Probability (2^k - x) / 2^k for 0 <= x < 2^k, never for other values."""
    values = np.repeat([-5.0, 0.0, 64.0, 192.0, 256.0, 1000.0], 20_000)
    x = MpcInstr(MpcOp.INPUT, (), values.shape, 0, 0)
    made = program(x, MpcInstr(MpcOp.LTZ, (0,), values.shape, 0, 0, attrs={"low": (8,)}))
    found = ring(made, x0=values[None]).reshape(6, -1).mean(axis=1)
    np.testing.assert_allclose(found, [1.0, 1.0, 0.75, 0.25, 0.0, 0.0], atol=0.02)


@pytest.mark.parametrize(("strides", "pads", "dilations", "group"), [
    ((1, 1), (0, 0, 0, 0), (1, 1), 1), ((2, 1), (1, 0, 2, 1), (1, 2), 1), ((1, 2), (1, 1, 1, 1), (2, 1), 2),
])  # fmt: skip
def test_a_convolution_means_what_onnx_means(strides, pads, dilations, group):
    from pi_compiler.ir.graph import Node
    from pi_compiler.ops import OPS

    rng = np.random.default_rng(3)
    x, w = rng.integers(-50, 50, (3, 1, 4, 7, 8)), rng.integers(-50, 50, (6, 4 // group, 3, 2))
    out = tuple(
        (n + pads[i] + pads[i + 2] - (k - 1) * d - 1) // s + 1
        for i, (n, k, d, s) in enumerate(zip((7, 8), (3, 2), dilations, strides, strict=True))
    )
    source = Node("Input", (), (1, 4, 7, 8))
    attrs = {"strides": strides, "pads": pads, "dilations": dilations, "group": group}
    node = Node("Conv", (source,), (1, 6, *out), {**attrs, "weight": w.astype(float)})
    expected = OPS["Conv"].apply(node, [x.astype(float)])
    conv = MpcInstr(
        MpcOp.CONV, (0,), (1, 6, *out), 0, 0, weight=0,
        attrs={**{k: v for k, v in attrs.items() if k != "group"}, "group": (group,)},
    )  # fmt: skip
    made = program(MpcInstr(MpcOp.INPUT, (), (1, 4, 7, 8), 0, 0), conv, consts=(MpcConst(w, 0, "model"),))
    assert (ring(made, x0=x) == expected).all()
    floats, _ = execute(made, FloatEngine(made), {"x0": x})
    np.testing.assert_array_equal(floats["y"], expected)


def test_gather_takes_from_all_operands_and_fills_with_zero():
    index = np.array([4, -1, 0, 1])
    x, y = MpcInstr(MpcOp.INPUT, (), (3,), 4, 0), MpcInstr(MpcOp.INPUT, (), (2,), 4, 0)
    made = program(x, y, MpcInstr(MpcOp.GATHER, (0, 1), (2, 2), 4, 0, index=0), indices=(index,))
    found = ring(made, x0=np.array([[1.0, 2.0, 3.0]]), x1=np.array([[4.0, 5.0]]))
    np.testing.assert_array_equal(found, [[[5.0, 0.0], [1.0, 2.0]]])


def test_a_malformed_program_is_refused():
    x = MpcInstr(MpcOp.INPUT, (), (3,), 16, 0)
    with pytest.raises(InternalError, match="16 fractional bits, needed are 32"):
        program(x, MpcInstr(MpcOp.SQUARE, (0,), (3,), 16, 0))
    with pytest.raises(InternalError, match="not defined before"):
        program(x, MpcInstr(MpcOp.SQUARE, (2,), (3,), 32, 0))
