"""SPU: what its protocols send was predicted, instruction by instruction."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from spu_programs import Program

from pi_compiler.cost_mpc import load_mpc_prices
from pi_compiler.ir.cheetah import LTZ_TRANSFERS, TRANSFERS, blocks, cheetah_uses
from pi_compiler.ir.mpc_program import MpcOp, MpcProgram
from pi_compiler.ir.protocols import protocol_of
from pi_compiler.ir.spu import held
from pi_compiler.ir.spu_work import spu_work
from pi_compiler.runtime.mpc.launcher import Plan
from pi_compiler.runtime.mpc.spu import library
from pi_compiler.runtime.mpc.spu.backend import SpuMpc
from pi_compiler.runtime.mpc.spu.measure import fitted, samples_of

installed = pytest.mark.skipif(library.missing() is not None, reason="spu is not installed")
_PLAIN = {"strides": (1, 1), "dilations": (1, 1), "group": (1,)}


def every_opcode() -> MpcProgram:
    """Every opcode at odd sizes, on shares, on what one party knows, on bits."""
    p = Program(apart=True)
    for size in (100, 2049):
        own = p.input(size)
        x = p.op(MpcOp.SCALE, (own,), (size,), bias=p.const(size))
        bit = p.op(MpcOp.LTZ, (x,), (size,))
        for args in ((bit, x), (bit, own), (bit, bit), (x, x), (own, x)):
            p.op(MpcOp.MUL, args, (size,))
        p.op(MpcOp.SQUARE, (x,), (size,))
        p.op(MpcOp.SQUARE, (own,), (size,))
        p.op(MpcOp.SUB, (x, bit), (size,))
        p.op(MpcOp.SUM, (bit if size % 2 == 0 else x,), (1,), attrs={"axes": (0,)})
        p.op(MpcOp.GATHER, (x,), (size,), index=p.index(np.r_[-1, np.arange(size - 1)]))
        p.op(MpcOp.GATHER, (bit,), (3,), index=p.index([2, 0, 1]))
        for operand in (x, own):
            p.op(MpcOp.SCALE, (operand,), (size,), weight=p.const(size), bias=p.const(1))
        p.op(MpcOp.SCALE, (x,), (size,), weight=p.const(size, owner="public"), bias=p.const(1, owner="public"))
        for bits in (9, 16, 32, 40):
            p.op(MpcOp.TRUNCATE, (x,), (size,), -bits, attrs={"bits": (bits,)})
    image = p.input(1, 4, 8, 8)
    for x in (image, p.op(MpcOp.SCALE, (image,), (1, 4, 8, 8), bias=p.const(4, 1, 1))):
        padded = {**_PLAIN, "pads": (1, 1, 1, 1)}
        p.op(MpcOp.CONV, (x,), (1, 6, 8, 8), weight=p.const(6, 4, 3, 3), bias=p.const(6, 1, 1), attrs=padded)
        grouped = {**_PLAIN, "pads": (0, 0, 0, 0), "group": (2,)}
        p.op(MpcOp.CONV, (x,), (1, 6, 6, 6), weight=p.const(6, 2, 3, 3), attrs=grouped)
    rows, columns = (p.op(MpcOp.SCALE, (p.input(3, *s),), (3, *s), bias=p.const(1)) for s in ((8, 4), (4, 8)))
    p.op(MpcOp.DOT, (rows, columns), (3, 8, 8))
    p.op(MpcOp.MATMUL, (rows,), (3, 8, 200), weight=p.const(4, 200))
    return p.done(0)


def sent(program: MpcProgram, protocol: str) -> dict[str, int]:
    """Bytes that all parties together sent, per layer."""
    backend = SpuMpc(Plan(protocol_of(protocol).parties, spu=protocol, timeout=120.0))
    zeros = {name: np.zeros((1, *program.instrs[port.value].shape)) for name, port in program.inputs.items()}
    _, trace = backend.run(program, zeros)
    return {name: cost.traffic.bytes_sent for name, cost in trace.layers.items()}


@installed
@pytest.mark.parametrize("protocol", ["semi2k", "aby3"])
def test_every_instruction_sends_just_what_was_predicted(protocol):
    program, prices = every_opcode(), load_mpc_prices(protocol)
    found = sent(program, protocol)
    for instr, cost in zip(program.instrs, prices.each(program), strict=True):
        layer = program.origins[instr.origin]
        # The answer's share comes with its description.
        if instr.op not in (MpcOp.INPUT, MpcOp.REVEAL):
            assert found[layer] == pytest.approx(cost.bytes * prices.links / 2, abs=1e-6), layer


@installed
def test_under_cheetah_only_the_size_of_ciphertexts_is_not_exact():
    """Its batches of transfers and triples are made beforehand, or show up in one instruction for all."""
    program = every_opcode()
    found, batches = sent(program, "cheetah"), 0
    for instr, use in zip(program.instrs, cheetah_uses(program), strict=True):
        layer, own = program.origins[instr.origin], use.sent.to_data + use.sent.to_model
        if instr.op in (MpcOp.INPUT, MpcOp.REVEAL):
            continue
        more = found[layer] - own
        if use.triples and more:
            assert more == pytest.approx(-(-use.triples // 4096) * 1_144_000, rel=0.01), layer
            batches += 1
        else:
            assert abs(more) <= 0.004 * own * (own > 100_000), layer
    assert 0 < batches < 4


@pytest.mark.parametrize(
    ("shape", "encrypted", "answers"),
    [
        ((64, 9, 8), (1, 1), 1),
        ((64, 72, 16), (2, 16), 1),
        ((1024, 144, 16), (512, 2), 2),
        ((64, 9, 16), (1, 2), 2),
        ((64, 9, 24), (2, 4), 1),
        ((1, 784, 128), (2, 16), 1),
        ((64, 576, 64), (5, 320), 1),
    ],
)
def test_matrices_are_cut_as_spu_cuts_them(shape, encrypted, answers):
    """Seen in its messages: the side with fewer polynomials sends them, the other answers."""
    cut = blocks(*shape)
    assert (cut.left, cut.right, cut.answers) == (*encrypted, answers)


def test_pieces_of_a_network_are_priced_with_their_inputs_as_shares():
    """A comparison of an input is free for its owner; inside of a network it is what a plan pays for."""
    p = Program()
    x = p.input(10)
    program = p.done(p.op(MpcOp.LTZ, (x,), (10,)))
    for protocol in library.PROTOCOLS:
        prices = load_mpc_prices(protocol)
        free, paid = (prices.each(program, within=within)[1].bytes for within in (False, True))
        assert free == 0, protocol
        assert paid > 10 * 16 * prod((2, 1)), protocol


@pytest.mark.parametrize("protocol", library.PROTOCOLS)
def test_a_table_fitted_to_seconds_predicts_them(protocol):
    """Kinds of work cost what a table says, modules something by themselves, and batches are made now and then."""
    program = samples_of(protocol)
    work = zip(program.instrs, spu_work(program, protocol, held(program)), strict=True)
    works = {program.origins[i.origin]: w for i, w in work}
    units = {"call": 1e-3, "element": 1e-7, "product": 1e-9, "batch": 0.1, "result": 1e-2, "merge": 1e-3}
    table = {w.kind: {name: units.get(name, 1e-4) for name in w.amounts} for w in works.values()}
    table |= {"module": {"call": 2e-3}, "add": {"element": 1e-8}, "sub": {"element": 1e-8}}
    seconds, waited = {}, 0.0
    for name, work in works.items():
        seconds[name] = work.seconds(table)
        waited += work.transfers * (LTZ_TRANSFERS[0] / sum(LTZ_TRANSFERS)) * (work.kind == "ltz")
        if waited >= TRANSFERS:
            seconds[name] += 2.0
            waited -= TRANSFERS
    found = fitted(program, protocol, seconds)
    assert found["module"]["call"] == pytest.approx(2e-3, rel=0.01)
    assert found["transfer"]["call"] == pytest.approx(2.0 / TRANSFERS if protocol == "cheetah" else 0.0)
    without = {**found, "transfer": {"call": 0.0}}
    for name, work in works.items():
        if work.kind not in ("input", "own") and seconds[name] < 1.9:
            assert work.seconds(without) == pytest.approx(seconds[name], rel=0.05), name
