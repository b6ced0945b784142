"""What SPU (SecretFlow) makes of an MPC program: how values are held, and what two parties send under SEMI2K.

Opcodes are ring operations there too: values are 64-bit integers, so every opcode keeps its exact meaning, and a
truncation is a product with the number 2^-bits, read as fixed point. The counts follow from SPU 0.9.5's protocol,
with truncations that talk to the other party and the first party dealing; tests compare them with its own.

* Products of shares open both operands; a square is a product. A convolution is the product of its windows'
  matrix, so every element counts as often as windows see it.
* A comparison takes seven rounds and 56 bytes each way per element, selecting by its bit 16 bytes.
* What only one party's inputs went into is that party's own computation and costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from pi_compiler.ir.graph import Shape
from pi_compiler.ir.mpc_program import DATA_PARTY, LINEAR, MODEL_PARTY, MpcInstr, MpcOp, MpcProgram
from pi_compiler.ir.two_party import ELEMENT_BYTES, Traffic

LARGEST_SPATIAL_RANK = 2
_DEFAULT_FRACTION = 16
_LTZ_ROUNDS, _LTZ_BYTES = 7, 56
_TRUNCATED_BYTES = 4
"""Per element and direction: the parties open half a ring element, so to speak."""


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


def fraction_bits(program: MpcProgram) -> int:
    """Fractional bits that SPU has to assume: the fewest that a truncation takes away."""
    bits = [i.attrs["bits"][0] for i in program.instrs if i.op is MpcOp.TRUNCATE]
    return min(bits, default=_DEFAULT_FRACTION)


def truncation_steps(bits: int, fraction: int) -> list[int]:
    """A truncation in steps of at most ``fraction`` bits each, the first of them whole so that nothing overflows."""
    whole, rest = divmod(bits, fraction)
    return [fraction] * whole + ([rest] if rest else [])


def kept_bits(program: MpcProgram) -> frozenset[int]:
    """Values that stay bits: comparisons, and movements of them."""
    found: set[int] = set()
    for number, instr in enumerate(program.instrs):
        moved = instr.op is MpcOp.GATHER and all(a in found for a in instr.args)
        if instr.op is MpcOp.LTZ or moved:
            found.add(number)
    return frozenset(found)


def fused_squares(program: MpcProgram) -> frozenset[int]:
    """Squares that are truncated next and not read otherwise: SPU then knows that what it truncates is not negative."""
    readers: dict[int, list[int]] = {}
    for number, instr in enumerate(program.instrs):
        for operand in instr.args:
            readers.setdefault(operand, []).append(number)
    fraction, bits = fraction_bits(program), kept_bits(program)
    return frozenset(
        number
        for number, instr in enumerate(program.instrs)
        if instr.op is MpcOp.SQUARE
        and instr.args[0] not in bits
        and readers.get(number) == [number + 1]
        and (after := program.instrs[number + 1]).op is MpcOp.TRUNCATE
        and after.origin == instr.origin
        and after.attrs["bits"][0] >= fraction
    )


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


def semi2k_traffic(program: MpcProgram) -> list[Traffic]:
    """Rounds and bytes of every instruction under SEMI2K."""
    bits, own, fraction = kept_bits(program), owned(program), fraction_bits(program)
    return [_sent(program, number, bits, own, fraction) for number in range(len(program))]


def _sent(program: MpcProgram, number: int, bits: frozenset[int], own: dict[int, int], fraction: int) -> Traffic:
    instr = program.instrs[number]
    if instr.op is MpcOp.REVEAL:
        return Traffic(1, to_data=ELEMENT_BYTES * instr.size)
    if number in own:
        return Traffic()
    match instr.op:
        case MpcOp.CONV | MpcOp.MATMUL | MpcOp.DOT:
            if not _shared(program, instr):
                return Traffic()
            product = product_of(program, instr)
            return _both(product.batch, ELEMENT_BYTES * product.opened)
        case MpcOp.SCALE if program.private_weight(instr) is not None:
            return _both(1, ELEMENT_BYTES * instr.size * (1 if instr.args[0] in own else 2))
        case MpcOp.SQUARE:
            return _both(1, 2 * ELEMENT_BYTES * instr.size)
        case MpcOp.MUL:
            return _both(1, ELEMENT_BYTES * instr.size * (1 if all(a in own for a in instr.args) else 2))
        case MpcOp.TRUNCATE:
            steps = len(truncation_steps(instr.attrs["bits"][0], fraction))
            return _both(steps, _TRUNCATED_BYTES * steps * instr.size)
        case MpcOp.LTZ:
            return _both(_LTZ_ROUNDS, _LTZ_BYTES * instr.size)
        case _:
            return Traffic()


def _shared(program: MpcProgram, instr: MpcInstr) -> bool:
    return instr.op not in LINEAR or program.private_weight(instr) is not None


def _both(rounds: int, size: int) -> Traffic:
    return Traffic(rounds, size, size)
