"""Two parties and a dealer compute what the ring simulator computes, and send what was predicted."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from parties import answers, in_threads

from pi_compiler.errors import InternalError, ShapeMismatch
from pi_compiler.ir.mpc_program import MpcConst, MpcInstr, MpcOp, MpcPort, MpcProgram, check, encode
from pi_compiler.ir.two_party import Traffic, kept_bits, levels, setup_bytes, traffic
from pi_compiler.runtime.mpc import library
from pi_compiler.runtime.mpc.bitplanes import pack, to_planes, unpack
from pi_compiler.runtime.mpc.handout import digest, pack_program, public_view, unpack_program
from pi_compiler.runtime.mpc.job import PartyResult
from pi_compiler.runtime.mpc.sim import RingEngine
from pi_compiler.runtime.mpc.streams import Agreement, Stream
from pi_compiler.runtime.mpc.walk import execute

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="crypten is not installed")

RING = st.integers(-(2**63), 2**63 - 1)
PLAIN = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": (1,)}


class Program:
    """Collects instructions; what is revealed gets a name."""

    def __init__(self) -> None:
        self.instrs: list[MpcInstr] = []
        self.consts: list[MpcConst] = []
        self.indices: list[np.ndarray] = []
        self.inputs: dict[str, MpcPort] = {}
        self.outputs: dict[str, MpcPort] = {}
        self.layers: list[str] = []

    def op(self, op: MpcOp, *args: int, shape: tuple[int, ...], frac: int = 0, layer: str = "", **more: object) -> int:
        name = layer or f"{op}{len(self.instrs)}"
        if name not in self.layers:
            self.layers.append(name)
        self.instrs.append(MpcInstr(op, args, shape, frac, self.layers.index(name), **more))
        return len(self.instrs) - 1

    def input(self, name: str, shape: tuple[int, ...], frac: int = 0) -> int:
        self.inputs[name] = MpcPort(len(self.instrs), shape)
        return self.op(MpcOp.INPUT, shape=shape, frac=frac)

    def const(self, values: np.ndarray, frac: int = 0, owner: str = "model") -> int:
        self.consts.append(MpcConst(np.asarray(values, np.int64), frac, owner))
        return len(self.consts) - 1

    def index(self, values: list[int]) -> int:
        self.indices.append(np.asarray(values, np.int32))
        return len(self.indices) - 1

    def reveal(self, name: str, value: int) -> None:
        of = self.instrs[value]
        number = self.op(MpcOp.REVEAL, value, shape=of.shape, frac=of.frac, attrs={"to": (1,)})
        self.outputs[name] = MpcPort(number, of.shape)

    def made(self) -> MpcProgram:
        found = MpcProgram(
            tuple(self.instrs),
            tuple(self.consts),
            tuple(self.indices),
            self.inputs,
            self.outputs,
            tuple(self.layers),
            "crypten-ttp",
        )
        check(found)
        return found


def every_opcode() -> MpcProgram:
    """Every opcode at least once, no truncation, so that nothing is rounded."""
    rng = np.random.default_rng(3)
    p = Program()
    x = p.input("x", (1, 4, 5, 6), 3)
    weight, bias = p.const(rng.integers(-3, 4, (6, 2, 3, 2))), p.const(rng.integers(-9, 9, (1, 6, 1, 1)), 3)
    attrs = {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2), "group": (2,)}
    conv = p.op(MpcOp.CONV, x, shape=(1, 6, 3, 5), frac=3, weight=weight, bias=bias, attrs=attrs)
    scale = p.op(MpcOp.SCALE, conv, shape=(1, 6, 3, 5), frac=3, weight=p.const(rng.integers(-1, 3, (6, 1, 1))))
    public = p.op(MpcOp.SCALE, conv, shape=(1, 6, 3, 5), frac=3, weight=p.const(np.array(-2), owner="public"))
    total = p.op(MpcOp.ADD, scale, public, shape=(1, 6, 3, 5), frac=3)
    bit = p.op(MpcOp.LTZ, total, shape=(1, 6, 3, 5), layer="relu")
    negative = p.op(MpcOp.MUL, bit, total, shape=(1, 6, 3, 5), frac=3, layer="relu")
    relu = p.op(MpcOp.SUB, total, negative, shape=(1, 6, 3, 5), frac=3, layer="relu")
    p.reveal("relu", relu)
    square = p.op(MpcOp.SQUARE, relu, shape=(1, 6, 3, 5), frac=6)
    pooled = p.op(MpcOp.SUM, square, shape=(1, 6, 1, 1), frac=6, attrs={"axes": (2, 3)})
    p.reveal("wide", p.op(MpcOp.MUL, pooled, total, shape=(1, 6, 3, 5), frac=9))
    flat = p.op(MpcOp.GATHER, pooled, shape=(1, 6), frac=6)
    fc = p.op(MpcOp.MATMUL, flat, shape=(1, 7), frac=6, weight=p.const(rng.integers(-1, 2, (6, 7))))
    p.reveal("fc", fc)
    picked = p.op(
        MpcOp.GATHER, fc, flat, shape=(2, 6), frac=6, index=p.index([0, 8, 1, -1, 7, 2, 12, 11, -1, 10, 6, 9])
    )
    p.reveal("picked", picked)
    turned = p.op(MpcOp.GATHER, fc, shape=(7, 1), frac=6)
    p.reveal("dot", p.op(MpcOp.DOT, turned, fc, shape=(7, 7), frac=12))
    stack = p.op(MpcOp.GATHER, fc, flat, shape=(13,), frac=6, index=p.index(list(range(13))))
    signs = p.op(MpcOp.LTZ, stack, shape=(13,), layer="stacked")
    some = p.op(MpcOp.GATHER, signs, shape=(1, 7), index=p.index([12, 0, 1, -1, 2, 5, 3]), layer="stacked")
    minus, one = p.const(np.array(-1), owner="public"), p.const(np.array(1), owner="public")
    some = p.op(MpcOp.SCALE, some, shape=(1, 7), weight=minus, bias=one, layer="stacked")
    p.reveal("selected", p.op(MpcOp.MUL, fc, some, shape=(1, 7), frac=6, layer="stacked"))
    plain = p.op(MpcOp.LTZ, fc, shape=(1, 7), layer="signs")
    p.reveal("signs", p.op(MpcOp.SCALE, plain, shape=(1, 7), bias=p.const(np.array(1), owner="public"), layer="signs"))
    return p.made()


@pytest.fixture(scope="module")
def ran() -> tuple[MpcProgram, dict[str, np.ndarray], list[PartyResult | BaseException]]:
    program = every_opcode()
    x = {"x": np.random.default_rng(8).integers(-4, 5, (3, 1, 4, 5, 6)) / 8}
    return program, x, in_threads(program, x)


def test_every_opcode_computes_what_the_simulator_computes(ran):
    program, x, found = ran
    wanted, _ = execute(program, RingEngine(program), x)
    for name, values in answers(found).items():
        assert np.array_equal(values, wanted[name]), name


def test_a_first_party_that_deals_computes_the_same(ran):
    program, x, _ = ran
    wanted, _ = execute(program, RingEngine(program), x)
    found = answers(in_threads(program, x, dealer=False))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_rounds_and_bytes_are_those_predicted_layer_by_layer(ran):
    """Plans are chosen by these figures."""
    program, x, found = ran
    samples = len(x["x"])
    predicted: dict[str, Traffic] = {}
    for instr, cost in zip(program.instrs, traffic(program), strict=True):
        layer = program.origins[instr.origin]
        predicted[layer] = predicted.get(layer, Traffic()) + cost
    model, data, dealer = found
    for layer, cost in predicted.items():
        sides = [party.trace.layers[layer].traffic for party in (model, data)]
        assert [s.rounds for s in sides] == [samples * cost.rounds] * 2, layer
        assert [s.bytes_sent for s in sides] == [samples * cost.to_data, samples * cost.to_model], layer
    whole = reduce(add, traffic(program), Traffic())
    assert dealer.offline.sent == samples * whole.offline
    assert model.setup.sent == setup_bytes(program) == data.setup.received
    assert model.online.received == data.online.sent == samples * whole.to_model
    assert data.online.received == model.online.sent == samples * whole.to_data


def test_a_comparison_that_only_selects_stays_in_bits():
    program = every_opcode()
    kept = {program.origins[program.instrs[n].origin] for n in kept_bits(program)}
    assert kept == {"relu", "stacked"}


@settings(max_examples=12, deadline=None)
@given(arrays(np.int64, st.integers(1, 130), elements=RING), st.booleans())
def test_the_sign_of_any_ring_element_is_exact(values, selects):
    """Numbers near zero and near the ring's edges are where carries run longest."""
    edges = np.array([0, 1, -1, 2**63 - 1, -(2**63), 2**62, -(2**62), 2**32 - 1], np.int64)
    values = np.concatenate([values, edges])
    p = Program()
    one = p.op(MpcOp.SCALE, p.input("x", values.shape), shape=values.shape, bias=p.const(values))
    sign = p.op(MpcOp.LTZ, one, shape=values.shape)
    ones = p.op(MpcOp.SCALE, 0, shape=values.shape, bias=p.const(np.ones(values.shape)))
    p.reveal("y", p.op(MpcOp.MUL, sign, ones, shape=values.shape) if selects else sign)
    found = answers(in_threads(p.made(), {"x": np.zeros((1, *values.shape))}))["y"]
    assert np.array_equal(found[0], (values < 0).astype(float))


def test_low_bits_left_out_only_touch_small_positive_numbers():
    """Circa's truncated comparison: what is below 2^low may be taken for negative, nothing else."""
    values = np.concatenate([np.arange(-300, 300), [2**21, -(2**21)]])
    p = Program()
    sign = p.op(MpcOp.LTZ, p.input("x", values.shape), shape=values.shape, attrs={"low": (6,)})
    p.reveal("y", sign)
    found = answers(in_threads(p.made(), {"x": np.repeat(values[None], 8, 0).astype(float)}))["y"]
    sure = (values < 0) | (values >= 64)
    assert np.array_equal(found[:, sure], np.broadcast_to(values[sure] < 0, (8, sure.sum())))
    small = found[:, ~sure].mean(axis=0)
    assert small[:16].mean() > small[-16:].mean()


def test_negative_numbers_are_decoded_exactly():
    """The library's decoder yields v - 1 for some v < 0."""
    values = -np.arange(1, 4000) / 2.0**16 - np.arange(1, 4000) % 50
    p = Program()
    p.reveal("y", p.input("x", values.shape, 16))
    assert np.array_equal(answers(in_threads(p.made(), {"x": values[None]}))["y"][0], values)


@given(arrays(np.int64, st.integers(1, 200), elements=RING))
def test_planes_hold_the_bits(values):
    x = torch.from_numpy(values)
    planes = to_planes(x)
    assert planes.shape == (64, -(-len(values) // 64))
    for bit in (0, 1, 31, 62, 63):
        assert unpack(planes[bit], len(values)).tolist() == [(int(v) >> bit) & 1 for v in values]
    assert torch.equal(pack(unpack(planes[5], len(values))), planes[5])


@given(st.integers(2, 63))
def test_the_tree_of_carries_ends_in_one_bit(positions):
    tree = levels(positions)
    assert tree[-1].groups == 1
    assert [level.propagate for level in tree] == [True] * (len(tree) - 1) + [False]
    assert tree[0].groups * tree[0].radix >= positions


# --- secrets -------------------------------------------------------------------------------------


def test_two_sides_of_an_agreement_draw_the_same_and_every_tensor_differs():
    ours, theirs = Agreement(), Agreement()
    a, b = ours.stream(theirs.public, "run"), theirs.stream(ours.public, "run")
    assert torch.equal(a.ring(0, 1, 2, (4, 5)), b.ring(0, 1, 2, (4, 5)))
    places = [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3)]
    drawn = {tuple(a.ring(*place, (2,)).tolist()) for place in places}
    drawn |= {tuple(ours.stream(theirs.public, "other").ring(0, 1, 2, (2,)).tolist())}
    assert len(drawn) == 5


def test_drawn_elements_are_uniform():
    """Eight bytes of a stream cipher each: every bit is set half the time."""
    found = unpack(Stream(bytes(32)).ring(0, 0, 0, (1 << 14,)), 1 << 20).reshape(-1, 64).double().mean(dim=0)
    assert (found - 0.5).abs().max() < 5 * 0.5 / np.sqrt(1 << 14)


def test_the_librarys_generator_is_shut():
    """A Mersenne Twister's outputs tell its state; no share may come from one."""
    crypten = library.bind(object(), object())
    with pytest.raises(InternalError, match="no source of shares"):
        crypten.mpc.primitives.ArithmeticSharedTensor.PRSS((3,))
    with pytest.raises(InternalError, match="no source of shares"):
        crypten.mpc.primitives.BinarySharedTensor.rand((3,))


def test_what_the_other_parties_are_handed_holds_no_weight():
    program = every_opcode()
    secret = program.consts[0].values
    assert secret.tobytes() in pack_program(program, private=True)
    handed = pack_program(program, private=False)
    assert all(c.values.tobytes() not in handed for c in program.consts if c.owner == "model" and c.values.size > 1)
    theirs = unpack_program(handed)
    assert not any(c.values.any() for c in theirs.consts if c.owner == "model")
    assert digest(theirs) == digest(program) == digest(public_view(program))
    assert np.array_equal(unpack_program(pack_program(program, private=True)).consts[0].values, secret)


def test_no_message_holds_an_input_or_a_weight(monkeypatch):
    """Whatever goes over a data line is masked: neither plaintext appears in it, whole or in part."""
    from pi_compiler.runtime.mpc import mesh

    seen: list[bytes] = []
    plain = mesh.Mesh.exchange

    def recorded(self, outgoing, sizes):
        seen.extend(bytes(memoryview(message).cast("B")) for message in outgoing.values())
        return plain(self, outgoing, sizes)

    monkeypatch.setattr(mesh.Mesh, "exchange", recorded)
    rng = np.random.default_rng(0)
    p = Program()
    weight = encode(rng.normal(size=(8, 8)), 16)
    p.reveal("y", p.op(MpcOp.MATMUL, p.input("x", (1, 8), 16), shape=(1, 8), frac=32, weight=p.const(weight, 16)))
    x = rng.normal(size=(1, 1, 8))
    answers(in_threads(p.made(), {"x": x}))
    secrets = {v.tobytes() for v in (*weight.ravel(), *encode(x, 16).ravel(), *x.ravel())}
    wire = b"".join(seen)
    assert len(wire) > 8 * 64
    assert not any(secret in wire for secret in secrets)


# --- faults --------------------------------------------------------------------------------------


def test_parties_with_different_programs_are_told_so_each_of_them():
    program = every_opcode()
    other = Program()
    other.reveal("relu", other.input("x", (1, 4, 5, 6)))
    found = in_threads(program, {"x": np.zeros((1, 1, 4, 5, 6))}, data=other.made(), timeout=10)
    assert all(isinstance(error, ShapeMismatch) for error in found), found
    assert all("do not mean the same run" in str(error) and "2 instructions" in str(error) for error in found)


def test_values_beyond_the_range_stop_every_party_and_none_is_named():
    program = every_opcode()
    x = np.zeros((1, 1, 4, 5, 6))
    x[0, 0, 0, 0, 0] = 7654321.0
    found = in_threads(program, {"x": x}, timeout=10)
    assert all("fixed-point range" in str(error) for error in found), found
    assert not any("7654321" in str(error) for error in found)


def test_inputs_of_another_shape_stop_every_party():
    found = in_threads(every_opcode(), {"x": np.zeros((1, 1, 4, 5, 5))}, timeout=1)
    assert "needed is" in str(found[1])
    assert all("within 1 seconds" in str(found[rank]) and "data owner" in str(found[rank]) for rank in (0, 2)), found
