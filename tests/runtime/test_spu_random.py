"""SPU: random programs mean on it what they mean, value by value."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spu_programs import Program, in_memory

from pi_compiler.ir.mpc_program import MpcOp, MpcProgram, check
from pi_compiler.ir.spu import kept_bits
from pi_compiler.runtime.mpc.sim import RingEngine
from pi_compiler.runtime.mpc.spu import library

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="spu is not installed")
_OPS = [op for op in MpcOp if op not in (MpcOp.INPUT, MpcOp.REVEAL)]
_SIDES = st.integers(1, 4)
_SAFE = 2**62


@st.composite
def programs(draw: st.DrawFn) -> MpcProgram:
    """Up to a dozen instructions of all opcodes on small tensors; every value is shown, whatever else reads it."""
    p = Program(apart=draw(st.booleans()), seed=draw(st.integers(0, 99)))
    for _ in range(draw(st.integers(1, 2))):
        p.input(*draw(st.lists(_SIDES, min_size=1, max_size=4)))
    for op in draw(st.lists(st.sampled_from(_OPS), min_size=3, max_size=12)):
        values = range(len(p.instrs))
        _MAKERS[op](p, draw, draw(st.sampled_from(values)))
    return p.done(*(n for n, i in enumerate(p.instrs) if i.op is not MpcOp.INPUT))


def _owner(draw):
    return draw(st.sampled_from(["model", "public"]))


def _moved(p, x, shape):
    """The value in a shape of as many elements or fewer, or repeated."""
    size = p.instrs[x].size
    return p.op(MpcOp.GATHER, (x,), shape, p.instrs[x].frac, index=p.index(np.arange(prod(shape)) % size))


def _conv(p, draw, x):
    rank, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    channels = group * draw(st.integers(1, 2))
    side = draw(st.integers(3, 5))
    x = _moved(p, x, (1, channels, *[side] * rank))
    filters, kernel = group * draw(st.integers(1, 2)), draw(st.integers(1, 3))
    strides = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    pads = draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    reach = [side + a + b - kernel for a, b in zip(pads[:rank], pads[rank:], strict=True)]
    out = (1, filters, *(r // s + 1 for r, s in zip(reach, strides, strict=True)))
    attrs = {"group": (group,), "strides": tuple(strides), "pads": tuple(pads), "dilations": (1,) * rank}
    weight = p.const(filters, channels // group, *[kernel] * rank, owner=_owner(draw))
    bias = p.const(filters, *[1] * rank, owner=_owner(draw)) if p.instrs[x].frac == 0 else -1
    p.op(MpcOp.CONV, (x,), out, p.instrs[x].frac, weight=weight, bias=bias, attrs=attrs)


def _matmul(p, draw, x):
    stack, inner, columns = draw(st.lists(_SIDES, max_size=2)), draw(_SIDES), draw(_SIDES)
    x = _moved(p, x, (*stack, draw(_SIDES), inner))
    shape = (*p.instrs[x].shape[:-1], columns)
    weight = p.const(*(stack if draw(st.booleans()) else ()), inner, columns, owner=_owner(draw))
    p.op(MpcOp.MATMUL, (x,), shape, p.instrs[x].frac, weight=weight)


def _dot(p, draw, x):
    stack, rows, inner, columns = draw(st.lists(_SIDES, max_size=2)), draw(_SIDES), draw(_SIDES), draw(_SIDES)
    y = draw(st.sampled_from(range(len(p.instrs))))
    a, b = _moved(p, x, (*stack, rows, inner)), _moved(p, y, (*stack, inner, columns))
    p.op(MpcOp.DOT, (a, b), (*stack, rows, columns), p.instrs[a].frac + p.instrs[b].frac)


def _scale(p, draw, x):
    shape, frac = p.instrs[x].shape, p.instrs[x].frac
    weight = p.const(*shape[-1:], owner=_owner(draw)) if draw(st.booleans()) else -1
    bias = p.const(*shape, owner=_owner(draw)) if frac == 0 else -1
    p.op(MpcOp.SCALE, (x,), shape, frac, weight=weight, bias=bias)


def _sum_of_two(op):
    def make(p, draw, x):
        same = [n for n, i in enumerate(p.instrs) if i.frac == p.instrs[x].frac]
        y = _moved(p, draw(st.sampled_from(same)), p.instrs[x].shape)
        p.op(op, (x, y) if draw(st.booleans()) else (y, x), p.instrs[x].shape, p.instrs[x].frac)

    return make


def _mul(p, draw, x):
    y = draw(st.sampled_from(range(len(p.instrs))))
    shape = p.instrs[x].shape
    y = _moved(p, y, draw(st.sampled_from([shape, (*shape[:-1], 1), shape[-1:]])))
    p.op(MpcOp.MUL, (x, y) if draw(st.booleans()) else (y, x), shape, p.instrs[x].frac + p.instrs[y].frac)


def _square(p, draw, x):
    p.op(MpcOp.SQUARE, (x,), p.instrs[x].shape, 2 * p.instrs[x].frac)


def _truncate(p, draw, x):
    bits = draw(st.integers(1, 40))
    p.op(MpcOp.TRUNCATE, (x,), p.instrs[x].shape, p.instrs[x].frac - bits, attrs={"bits": (bits,)})


def _ltz(p, draw, x):
    p.op(MpcOp.LTZ, (x,), p.instrs[x].shape)


def _gather(p, draw, x):
    same = [n for n, i in enumerate(p.instrs) if i.frac == p.instrs[x].frac]
    args = [x, *draw(st.lists(st.sampled_from(same), max_size=2))]
    total = sum(p.instrs[a].size for a in args)
    index = draw(st.lists(st.integers(-1, total - 1), min_size=1, max_size=12))
    p.op(MpcOp.GATHER, args, (len(index),), p.instrs[x].frac, index=p.index(index))


def _sum(p, draw, x):
    shape = p.instrs[x].shape
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    p.op(MpcOp.SUM, (x,), kept, p.instrs[x].frac, attrs={"axes": axes})


_MAKERS = {
    MpcOp.CONV: _conv,
    MpcOp.MATMUL: _matmul,
    MpcOp.SCALE: _scale,
    MpcOp.DOT: _dot,
    MpcOp.ADD: _sum_of_two(MpcOp.ADD),
    MpcOp.SUB: _sum_of_two(MpcOp.SUB),
    MpcOp.MUL: _mul,
    MpcOp.SQUARE: _square,
    MpcOp.TRUNCATE: _truncate,
    MpcOp.LTZ: _ltz,
    MpcOp.GATHER: _gather,
    MpcOp.SUM: _sum,
}


def holds(program: MpcProgram, protocol: str, seed: int) -> None:
    """Every value is what its instruction makes of the values that were found; a truncation may be one unit off."""
    rng = np.random.default_rng(seed)
    ports = {port.value: name for name, port in program.inputs.items()}
    x = {n: rng.integers(-(2**20), 2**20, program.instrs[p.value].shape) for n, p in program.inputs.items()}
    found = in_memory(program, x, protocol)
    held = {number: x[name] for number, name in ports.items()}
    held |= {program.instrs[p.value].args[0]: found[name] for name, p in program.outputs.items()}
    engine = RingEngine(program, "interactive", rng)
    for number, instr in enumerate(program.instrs):
        if instr.op in (MpcOp.INPUT, MpcOp.REVEAL):
            continue
        operands = [held[a] for a in instr.args]
        if instr.op is MpcOp.TRUNCATE:
            # Between parties elements must stay below a quarter of the ring; plans see to it.
            safe = (operands[0] > -_SAFE) & (operands[0] < _SAFE)
            off = np.where(safe, held[number] - (operands[0] >> instr.attrs["bits"][0]), 0)
        else:
            off = held[number] - engine.step(number, [v[None] for v in operands])[0]
        allowed = 1 if instr.op is MpcOp.TRUNCATE else 0
        assert np.abs(off).max() <= allowed, f"{number}: {instr.op} of {program.origins[instr.origin]}"


def _examples(count):
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, suppress_health_check=slow)


@_examples(20)
@given(programs(), st.integers(0, 2**16))
def test_random_programs_mean_the_same_on_spu_in_the_clear(program, seed):
    """One party that holds everything: the text alone is tested, and truncations are exact up to rounding."""
    holds(program, "ref2k", seed)


@_examples(10)
@given(programs(), st.integers(0, 2**16), st.sampled_from(["semi2k", "aby3"]))
def test_random_programs_mean_the_same_between_parties(program, seed, protocol):
    """Shares, what one party knows and what is public meet in every opcode."""
    holds(program, protocol, seed)


@_examples(50)
@given(programs())
def test_random_programs_are_well_formed_and_bits_are_where_they_are_made(program):
    """What is generated has to be what the compiler could have made."""
    check(program)
    bits = kept_bits(program)
    assert all(program.instrs[n].op in (MpcOp.LTZ, MpcOp.GATHER) for n in bits)
    assert bits >= {n for n, i in enumerate(program.instrs) if i.op is MpcOp.LTZ}
    assert check(replace(program, protocol="semi2k")) is None
