"""What SPU (SecretFlow) makes of an MPC program: how values are held, and what two parties send under SEMI2K.

Opcodes are ring operations there too: values are 64-bit integers, so every opcode keeps its exact meaning, and a
truncation is a product with the constant 2^-bits, read as fixed point. SPU makes of it a product with 2^(f - 1) and
a truncation by bits + f - 1, f being the fractional bits it assumes; they are set to one, so that it truncates by just
as many bits and no ring element overflows. The counts follow from SPU 0.9.5's protocol, with truncations that talk to
the other party and the first party dealing; tests compare them with its own.

* Products of shares open both operands; a square is a product. A convolution is the product of its windows'
  matrix, so every element counts as often as windows see it.
* A comparison takes seven rounds and 56 bytes each way per element, selecting by its bit 16 bytes, and making a
  ring element of the bit 1 byte.
* A truncation by at most 32 bits takes 4 bytes each way per element, by more 8 (measured for every width).
* What only one party's inputs went into is that party's own computation and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from pi_compiler.ir.graph import Shape
from pi_compiler.ir.mpc_program import DATA_PARTY, LINEAR, MODEL_PARTY, MpcInstr, MpcOp, MpcProgram
from pi_compiler.ir.two_party import ELEMENT_BYTES, Traffic

LARGEST_SPATIAL_RANK = 2
FRACTION = 1
"""Fractional bits that SPU is told to assume; none would mean its default, 18."""
_LTZ_ROUNDS, _LTZ_BYTES = 7, 56
_BIT_BYTES = 1
_NARROW = 32


@dataclass(frozen=True, slots=True)
class Product:
    """A product of matrices, ``batch`` times (rows, inner) @ (inner, columns)."""

    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def opened(self) -> int:
        """Elements of both operands."""
        return self.batch * (self.rows * self.inner + self.inner * self.columns)


@dataclass(frozen=True, slots=True)
class Held:
    """How the values of a program are held.

    Attributes:
        bits: values that stay bits: comparisons, and movements of them.
        owners: per value that a single party can compute for itself that party.
    """

    bits: frozenset[int]
    owners: dict[int, int]

    def shared(self, program: MpcProgram, instr: MpcInstr) -> bool:
        """Whether a product needs both parties: neither operand is public."""
        return instr.op not in LINEAR or program.private_weight(instr) is not None

    def turned(self, instr: MpcInstr) -> int:
        """How many of an instruction's operands are bits of both parties that it needs as ring elements."""
        bits = sum(a in self.bits for a in instr.args)
        if instr.op is MpcOp.REVEAL or (instr.op in (MpcOp.GATHER, MpcOp.MUL) and bits == len(instr.args)):
            return 0
        found = sum(a in self.bits and a not in self.owners for a in instr.args)
        # In a product of two values a bit selects.
        return 0 if instr.op is MpcOp.MUL else found


def held(program: MpcProgram, *, within: bool = False) -> Held:
    """How the values of a program are held.

    Args:
        program: which.
        within: whether it is a piece of a network, so that its inputs are shares already.
    """
    return Held(kept_bits(program), {} if within else owned(program))


def stretches(program: MpcProgram) -> Iterator[list[int]]:
    """Neighboring instructions of equal layers, those that are no computation left out: a module each."""
    found: list[int] = []
    for number, instr in enumerate(program.instrs):
        if instr.op in (MpcOp.INPUT, MpcOp.REVEAL):
            continue
        if found and program.instrs[found[-1]].origin != instr.origin:
            yield found
            found = []
        found.append(number)
    if found:
        yield found


def kept_bits(program: MpcProgram) -> frozenset[int]:
    """Values that stay bits: comparisons, and movements of them."""
    found: set[int] = set()
    for number, instr in enumerate(program.instrs):
        moved = instr.op is MpcOp.GATHER and all(a in found for a in instr.args)
        if instr.op is MpcOp.LTZ or moved:
            found.add(number)
    return frozenset(found)


def owned(program: MpcProgram) -> dict[int, int]:
    """Per value that a single party can compute for itself that party."""
    found: dict[int, int] = {}
    ports = {port.value: port for port in program.inputs.values()}
    for number, instr in enumerate(program.instrs):
        if instr.op is MpcOp.INPUT:
            found[number] = owner_of(ports[number].owner)
            continue
        owners = {found.get(a, -1) for a in instr.args}
        owners |= {MODEL_PARTY for n in (instr.weight, instr.bias) if n >= 0 and program.consts[n].owner == "model"}
        if len(owners) == 1 and -1 not in owners:
            found[number] = owners.pop()
    return found


def owner_of(name: str) -> int:
    """The party that puts in what belongs to ``"model"`` or ``"data"``."""
    return MODEL_PARTY if name == "model" else DATA_PARTY


def product_of(program: MpcProgram, instr: MpcInstr) -> Product:
    """What a CONV, MATMUL or DOT multiplies."""
    x = program.instrs[instr.args[0]].shape
    if instr.op is MpcOp.DOT:
        return stacked(x, program.instrs[instr.args[1]].shape)
    weight = program.consts[instr.weight].values.shape
    if instr.op is MpcOp.CONV:
        group = instr.attrs["group"][0]
        return Product(group, x[0] * prod(instr.shape[2:]), prod(weight[1:]), weight[0] // group)
    return stacked(x if len(x) > 1 else (1, *x), weight)


def stacked(x: Shape, y: Shape) -> Product:
    """The matrix product by numpy's rules; a matrix behind a stack is one tall product."""
    if len(y) == 2:
        return Product(1, prod(x[:-1]), x[-1], y[-1])
    batch = prod(np.broadcast_shapes(x[:-2], y[:-2]))
    return Product(batch, x[-2], x[-1], y[-1])


def unsupported(program: MpcProgram) -> list[str]:
    """Per instruction that SPU cannot run, its layer and why."""
    return [
        f"layer {program.origins[i.origin]!r}: a convolution over {len(i.attrs['strides'])} dimensions, "
        f"at most {LARGEST_SPATIAL_RANK} are possible"
        for i in program.instrs
        if i.op is MpcOp.CONV and len(i.attrs["strides"]) > LARGEST_SPATIAL_RANK
    ]


def semi2k_traffic(program: MpcProgram, how: Held | None = None) -> list[Traffic]:
    """Rounds and bytes of every instruction under SEMI2K; ``how`` its values are held, if that is known."""
    how = how or held(program)
    return [_sent(program, number, how) for number in range(len(program))]


def _sent(program: MpcProgram, number: int, how: Held) -> Traffic:
    instr, own = program.instrs[number], how.owners
    if instr.op is MpcOp.REVEAL:
        return Traffic(1, to_data=ELEMENT_BYTES * instr.size)
    if number in own:
        return Traffic()
    return _turned(program, instr, how) + _multiplied(program, instr, how)


def _turned(program: MpcProgram, instr: MpcInstr, how: Held) -> Traffic:
    count = how.turned(instr)
    if not count:
        return Traffic()
    size = sum(program.instrs[a].size for a in instr.args if a in how.bits)
    # Sums halve their operand first and turn both halves.
    return _both(2 if instr.op is MpcOp.SUM else count, _BIT_BYTES * size)


def _multiplied(program: MpcProgram, instr: MpcInstr, how: Held) -> Traffic:
    own = how.owners
    match instr.op:
        case MpcOp.CONV | MpcOp.MATMUL | MpcOp.DOT if how.shared(program, instr):
            product = product_of(program, instr)
            return _both(product.batch, ELEMENT_BYTES * product.opened)
        case MpcOp.SCALE if program.private_weight(instr) is not None:
            return _both(1, ELEMENT_BYTES * instr.size * (1 if instr.args[0] in own else 2))
        case MpcOp.SQUARE:
            return _both(1, 2 * ELEMENT_BYTES * instr.size)
        case MpcOp.MUL if all(a in how.bits for a in instr.args):
            return _both(1, 2 * _BIT_BYTES * instr.size)
        case MpcOp.MUL:
            return _both(1, ELEMENT_BYTES * instr.size * (1 if all(a in own for a in instr.args) else 2))
        case MpcOp.TRUNCATE:
            wide = instr.attrs["bits"][0] > _NARROW
            return _both(1, (ELEMENT_BYTES if wide else ELEMENT_BYTES // 2) * instr.size)
        case MpcOp.LTZ:
            return _both(_LTZ_ROUNDS, _LTZ_BYTES * instr.size)
        case _:
            return Traffic()


def _both(rounds: int, size: int) -> Traffic:
    return Traffic(rounds, size, size)
