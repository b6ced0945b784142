"""What three parties send under ABY3 (Mohassel and Rindal, CCS 2018) as SPU 0.9.5 runs it.

Everything is replicated: each party holds two of three shares. The counts are exact; the formulas were found by
measuring single instructions at several sizes, and tests compare them with SPU's own.

* What one party knows is shared whenever it meets a share: 16 bytes per element, a weight anew in every run.
* A product of any kind sends its result's share once: 24 bytes per element. So matrix products cost their result.
* A comparison takes 108 bytes, selecting by its bit 64, making a ring element of the bit 32, a product of bits 3,
  and a truncation 28 bytes per element, or 40 by more than 32 bits.
* Zeros that pad, and those that sums start from, are shared as well: one element.
"""

from __future__ import annotations

from dataclasses import dataclass

from pi_compiler.ir.mpc_program import MpcInstr, MpcOp, MpcProgram
from pi_compiler.ir.spu import Held, held, product_of

_NARROW = 32


@dataclass(frozen=True, slots=True)
class Sent:
    """What an instruction sends.

    Attributes:
        rounds: messages that wait for each other.
        bytes: of all parties.
        busiest: the most that one party sends another.
    """

    rounds: int = 0
    bytes: int = 0
    busiest: int = 0

    def __add__(self, other: Sent) -> Sent:
        return Sent(self.rounds + other.rounds, self.bytes + other.bytes, self.busiest + other.busiest)


def aby3_sent(program: MpcProgram, how: Held | None = None) -> list[Sent]:
    """What every instruction sends under ABY3; ``how`` its values are held, if that is known."""
    how = how or held(program)
    return [_sent(program, number, how) for number in range(len(program))]


def _sent(program: MpcProgram, number: int, how: Held) -> Sent:
    instr = program.instrs[number]
    if instr.op is MpcOp.REVEAL:
        return Sent(1, 16 * instr.size, 8 * instr.size)
    if number in how.owners:
        return Sent()
    return _turned(program, instr, how) + _computed(program, instr, how)


def _turned(program: MpcProgram, instr: MpcInstr, how: Held) -> Sent:
    count = how.turned(instr)
    if not count:
        return Sent()
    size = sum(program.instrs[a].size for a in instr.args if a in how.bits)
    calls = 2 if instr.op is MpcOp.SUM else count
    return Sent(2 * calls, 32 * size, 8 * size)


def _computed(program: MpcProgram, instr: MpcInstr, how: Held) -> Sent:
    size = instr.size
    known = [a for a in instr.args if a in how.owners]
    match instr.op:
        case MpcOp.CONV | MpcOp.MATMUL | MpcOp.DOT | MpcOp.SCALE:
            return _linear(program, instr, how)
        case MpcOp.ADD | MpcOp.SUB:
            return _known(size, len(known))
        case MpcOp.MUL:
            bits = sum(a in how.bits and a not in how.owners for a in instr.args)
            if bits == 2:
                return Sent(1, 3 * size, size)
            return _known(size, len(known)) + (Sent(3, 64 * size, 16 * size) if bits else _result(size))
        case MpcOp.SQUARE:
            return _result(size)
        case MpcOp.TRUNCATE:
            wide = instr.attrs["bits"][0] > _NARROW
            return Sent(2, (40 if wide else 28) * size, (12 if wide else 8) * size)
        case MpcOp.LTZ:
            return Sent(8, 108 * size, 36 * size)
        case MpcOp.SUM:
            return _zero()
        case MpcOp.GATHER if instr.index >= 0 and bool((program.indices[instr.index] < 0).any()):
            return _zero()
        case _:
            return Sent()


def _linear(program: MpcProgram, instr: MpcInstr, how: Held) -> Sent:
    """A product if its weight is private or a value, then the bias."""
    x, total, calls = instr.args[0], Sent(), 1
    inputs = [program.instrs[a].size for a in instr.args if a in how.owners]
    if instr.op is not MpcOp.SCALE:
        product = product_of(program, instr)
        calls = product.batch
        if instr.op is MpcOp.CONV and any(instr.attrs["pads"]):
            total = Sent(calls, 24 * calls, 8 * calls)
        elif instr.op is MpcOp.CONV and inputs:
            # Nothing has made shares of the image before its windows are cut out.
            inputs = [calls * product.rows * product.inner]
    shared = how.shared(program, instr)
    if shared:
        weight = program.private_weight(instr)
        if weight is not None:
            inputs.append(instr.size if instr.op is MpcOp.SCALE else weight.values.size)
        for size in inputs:
            total += Sent(calls, 16 * size, 8 * size)
        total += Sent(calls, 24 * instr.size, 8 * instr.size)
    if instr.bias >= 0 and program.consts[instr.bias].owner == "model":
        total += _known(instr.size, 1 if shared or x not in how.owners else 2)
    return total


def _result(size: int) -> Sent:
    return Sent(1, 24 * size, 8 * size)


def _known(size: int, operands: int) -> Sent:
    """Operands that one party knows, shared one after the other."""
    return Sent(operands, 16 * size * operands, 8 * size * operands)


def _zero() -> Sent:
    return Sent(1, 24, 8)
