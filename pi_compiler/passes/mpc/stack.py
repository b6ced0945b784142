"""Stack: comparisons, and products, that do not depend on each other become one instruction.

Branches side by side (Inception, SqueezeNet) compare at the same time: what has equally many rounds before it
is gathered into one tensor, compared or multiplied once, and split again. Within a layer the lowering does
that itself. A program without such branches is left as it is.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from math import prod

import numpy as np

from pi_compiler.ir.graph import IntArray, Shape
from pi_compiler.ir.mpc_program import Index, MpcInstr, MpcOp, MpcProgram

_SENDING = frozenset({MpcOp.DOT, MpcOp.MUL, MpcOp.SQUARE, MpcOp.LTZ})


def stack(program: MpcProgram) -> MpcProgram:
    """The program with independent comparisons and products side by side."""
    depth = _depths(program)
    groups: dict[Hashable, list[int]] = {}
    for number, instr in enumerate(program.instrs):
        if (key := _key(program, instr)) is not None:
            groups.setdefault((depth[number], key), []).append(number)
    several = {members[0]: members for members in groups.values() if len(members) > 1}
    return _Rewriting(program, depth, several).result() if several else program


def _sends(program: MpcProgram, instr: MpcInstr) -> bool:
    return instr.op in _SENDING or program.private_weight(instr) is not None


def _depths(program: MpcProgram) -> list[int]:
    """Rounds before each value, its own included, as far as they wait for each other."""
    depth: list[int] = []
    for instr in program.instrs:
        before = max((depth[a] for a in instr.args), default=0)
        depth.append(before + _sends(program, instr))
    return depth


def _key(program: MpcProgram, instr: MpcInstr) -> Hashable | None:
    """What instructions must have in common; None for those that stay alone."""
    args = [program.instrs[a] for a in instr.args]
    if instr.op is MpcOp.LTZ:
        return instr.op, args[0].frac, tuple(instr.attrs.items())
    if instr.op in (MpcOp.MUL, MpcOp.SQUARE) and all(a.shape == instr.shape for a in args):
        return instr.op, tuple(a.frac for a in args)
    return None


class _Rewriting:
    """The program anew, depth by depth."""

    def __init__(self, program: MpcProgram, depth: list[int], several: dict[int, list[int]]) -> None:
        self.program, self.depth, self.several = program, depth, several
        self.instrs: list[MpcInstr] = []
        self.indices: list[Index] = list(program.indices)
        self.origins = list(program.origins)
        self.new: dict[int, int] = {}

    def result(self) -> MpcProgram:
        """Everything: what sends first, within a depth, because it only reads what was before."""
        program = self.program
        order = sorted(range(len(program)), key=lambda n: (self.depth[n], not _sends(program, program.instrs[n]), n))
        members = {n for group in self.several.values() for n in group}
        for number in order:
            if number in self.several:
                self.together(self.several[number])
            elif number not in members:
                instr = program.instrs[number]
                self.new[number] = self.emit(replace(instr, args=tuple(self.new[a] for a in instr.args)))
        return replace(
            program,
            instrs=tuple(self.instrs),
            indices=tuple(self.indices),
            origins=tuple(self.origins),
            inputs={n: replace(p, value=self.new[p.value]) for n, p in program.inputs.items()},
            outputs={n: replace(p, value=self.new[p.value]) for n, p in program.outputs.items()},
        )

    def emit(self, instr: MpcInstr) -> int:
        self.instrs.append(instr)
        return len(self.instrs) - 1

    def together(self, numbers: list[int]) -> None:
        """Several instructions as one."""
        instrs = [self.program.instrs[n] for n in numbers]
        names = dict.fromkeys(self.program.origins[i.origin] for i in instrs)
        origin = len(self.origins)
        self.origins.append(" + ".join(names))
        sizes = [i.size for i in instrs]
        joined = []
        for place in range(len(instrs[0].args)):
            parts = tuple(self.new[i.args[place]] for i in instrs)
            joined.append(self.gather(parts, np.arange(sum(sizes)), (sum(sizes),), origin))
        first = instrs[0]
        whole = self.emit(replace(first, args=tuple(joined), shape=(sum(sizes),), origin=origin))
        start = 0
        for number, instr in zip(numbers, instrs, strict=True):
            index = np.arange(start, start + instr.size)
            self.new[number] = self.gather((whole,), index, instr.shape, instr.origin)
            start += instr.size

    def gather(self, args: tuple[int, ...], index: IntArray, shape: Shape, origin: int) -> int:
        self.indices.append(index.astype(np.int32) if prod(shape) < 2**31 else index)
        frac = self.instrs[args[0]].frac
        return self.emit(MpcInstr(MpcOp.GATHER, args, shape, frac, origin, index=len(self.indices) - 1))
