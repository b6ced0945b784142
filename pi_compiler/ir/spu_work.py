"""What an MPC program makes SPU's parties compute: the amounts that seconds are charged by.

A table of seconds has a row per kind of instruction (mostly its opcode) with seconds per unit of each amount; rows
``module`` and ``transfer`` are charged per module and per oblivious transfer. The same amounts serve for fitting a
table to measurements and for predicting from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pi_compiler.ir.cheetah import DEGREE, DIRECT, TRIPLES, blocks, cheetah_uses
from pi_compiler.ir.mpc_program import LINEAR, MpcInstr, MpcOp, MpcProgram
from pi_compiler.ir.spu import Held, product_of, stretches

MODULE, TRANSFER = "module", "transfer"
_CALL, _ELEMENT = "call", "element"


@dataclass(frozen=True, slots=True)
class Work:
    """An instruction's work.

    Attributes:
        kind: row of the table.
        amounts: ``call``, ``element`` (operands as they enter a product, and results), ``product`` of numbers;
            under Cheetah ``batch`` of 8,192 elements, and of polynomials ``result``, ``multiplication``, ``merge``.
        modules: 1 if a module begins here.
        transfers: oblivious transfers that it uses up.
    """

    kind: str
    amounts: dict[str, float]
    modules: int = 0
    transfers: int = 0

    def seconds(self, table: Mapping[str, Mapping[str, float]]) -> float:
        """By a table of seconds."""
        rates = table.get(self.kind, {})
        own = sum(rates.get(name, 0.0) * amount for name, amount in self.amounts.items())
        each = (self.modules, MODULE), (self.transfers, TRANSFER)
        return own + sum(count * table.get(row, {}).get(_CALL, 0.0) for count, row in each)


def spu_work(program: MpcProgram, protocol: str, how: Held) -> list[Work]:
    """The work of every instruction.

    Args:
        program: which.
        protocol: one of SPU's.
        how: how its values are held.
    """
    starts = {numbers[0] for numbers in stretches(program)}
    uses = cheetah_uses(program, how) if protocol == "cheetah" else []
    found = []
    for number in range(len(program)):
        kind, amounts = _amounts(program, number, protocol, how)
        transfers = uses[number].by_model + uses[number].by_data if uses else 0
        found.append(Work(kind, amounts, int(number in starts), transfers))
    return found


def _amounts(program: MpcProgram, number: int, protocol: str, how: Held) -> tuple[str, dict[str, float]]:
    instr = program.instrs[number]
    size = float(instr.size)
    if instr.op is MpcOp.INPUT:
        return "input", {}
    if number in how.owners:
        return "own", _local(program, instr)
    if instr.op in LINEAR and program.private_weight(instr) is None:
        secret = instr.bias >= 0 and program.consts[instr.bias].owner == "model"
        return "biased" if secret and instr.op is MpcOp.SCALE else "public", _local(program, instr)
    match instr.op:
        case MpcOp.CONV | MpcOp.MATMUL | MpcOp.DOT if protocol == "cheetah":
            return "matrix", _polynomials(program, instr)
        case MpcOp.CONV | MpcOp.MATMUL | MpcOp.DOT:
            return instr.op.value, _local(program, instr)
        case MpcOp.SCALE if protocol == "cheetah":
            return "scale", {_CALL: 1.0, _ELEMENT: size, "batch": float(-(-instr.size // DEGREE))}
        case MpcOp.MUL | MpcOp.SQUARE if any(a in how.bits and a not in how.owners for a in instr.args):
            return "select", {_CALL: 1.0, _ELEMENT: size}
        case MpcOp.MUL | MpcOp.SQUARE if protocol == "cheetah":
            # A direct product encrypts both operands and is as much as two batches.
            batches = size / TRIPLES if instr.size < DIRECT else 2.0 * -(-instr.size // DEGREE)
            return "mul", {_CALL: 1.0, _ELEMENT: size, "batch": batches}
        case MpcOp.MUL | MpcOp.SQUARE:
            return "mul", {_CALL: 1.0, _ELEMENT: size}
        case _:
            return instr.op.value, {_CALL: 1.0, _ELEMENT: size}


def _local(program: MpcProgram, instr: MpcInstr) -> dict[str, float]:
    size = float(instr.size)
    if instr.op not in (MpcOp.CONV, MpcOp.MATMUL, MpcOp.DOT):
        return {_CALL: 1.0, _ELEMENT: size}
    product = product_of(program, instr)
    products = product.batch * product.rows * product.inner * product.columns
    return {_CALL: float(product.batch), _ELEMENT: product.opened + size, "product": float(products)}


def _polynomials(program: MpcProgram, instr: MpcInstr) -> dict[str, float]:
    product = product_of(program, instr)
    cut = blocks(product.rows, product.inner, product.columns)
    calls = product.batch * (2 if instr.op is MpcOp.DOT else 1)
    amounts = {_CALL: 1, "result": cut.results, "multiplication": cut.products, "merge": cut.merges}
    return {name: float(calls * amount) for name, amount in amounts.items()}
