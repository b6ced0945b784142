"""Narrow: rows and columns that nobody reads are not computed.

A network that answers for its last token, or its first, reads one row of what its last block makes. Per value the
positions that readers need are collected along each axis, back to front, and every instruction is cut to them, with
its constants. Instructions keep their form, so that broadcasting and matrix products stay what they are; where a
reader needs less than another, a gather stands between, which is local. Convolutions stay whole. A program of which
everything is read is left as it is.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pi_compiler.ir.graph import IntArray, Shape
from pi_compiler.ir.mpc_program import Index, MpcConst, MpcInstr, MpcOp, MpcProgram

Box: TypeAlias = tuple[IntArray, ...]
"""Per axis the positions that are needed, in order; at least one."""


def narrow(program: MpcProgram) -> MpcProgram:
    """The program without elements that no output depends on, as far as they are rows and columns."""
    boxes = _needed(program)
    if all(b is not None and _shape(b) == i.shape for b, i in zip(boxes, program.instrs, strict=True)):
        return program
    return _Narrowing(program, boxes).result()


def _shape(box: Box) -> Shape:
    return tuple(len(axis) for axis in box)


def _full(shape: Shape) -> Box:
    return tuple(np.arange(n) for n in shape)


def _needed(program: MpcProgram) -> list[Box | None]:
    """What of each value is read; None for nothing."""
    found: list[Box | None] = [None] * len(program)
    for port in (*program.inputs.values(), *program.outputs.values()):
        found[port.value] = _full(program.instrs[port.value].shape)
    for number in range(len(program) - 1, -1, -1):
        box = found[number]
        if box is None:
            continue
        if _whole(program, program.instrs[number]):
            found[number] = box = _full(program.instrs[number].shape)
        for operand, wanted in zip(program.instrs[number].args, _wanted(program, number, box), strict=True):
            if wanted is not None:
                before = found[operand]
                merged = wanted if before is None else tuple(map(np.union1d, before, wanted))
                found[operand] = merged
    return found


def _whole(program: MpcProgram, instr: MpcInstr) -> bool:
    """Instructions that are not cut."""
    if instr.op is MpcOp.SUM:
        return _kept_axes(program, instr) is None
    return instr.op in (MpcOp.INPUT, MpcOp.CONV, MpcOp.REVEAL)


def _kept_axes(program: MpcProgram, instr: MpcInstr) -> dict[int, int] | None:
    """Per axis of a sum's operand that stays its axis in the result; None if the result's shape mixes them.

    Axes of length one need no counterpart.
    """
    shape = program.instrs[instr.args[0]].shape
    left = [a for a, n in enumerate(shape) if a not in instr.attrs["axes"] and n > 1]
    right = [a for a, n in enumerate(instr.shape) if n > 1]
    if [shape[a] for a in left] != [instr.shape[a] for a in right]:
        return None
    return dict(zip(left, right, strict=True))


def _wanted(program: MpcProgram, number: int, box: Box) -> list[Box | None]:
    """What an instruction reads of each operand for a box of its result."""
    instr = program.instrs[number]
    shapes = [program.instrs[a].shape for a in instr.args]
    match instr.op:
        case MpcOp.GATHER:
            return [None if s is None else s[1] for s in _sources(program, instr, box)]
        case MpcOp.MUL:
            return [_aligned(shape, box) for shape in shapes]
        case MpcOp.MATMUL if len(shapes[0]) > 1:
            return [(*_aligned(shapes[0][:-1], box[:-1]), np.arange(shapes[0][-1]))]
        case MpcOp.DOT:
            a, b = shapes
            stack, inner = box[:-2], np.arange(a[-1])
            return [(*_aligned(a[:-2], stack), box[-2], inner), (*_aligned(b[:-2], stack), inner, box[-1])]
        case MpcOp.SUM:
            kept = _kept_axes(program, instr) or {}
            return [tuple(box[kept[a]] if a in kept else np.arange(n) for a, n in enumerate(shapes[0]))]
        case MpcOp.MATMUL | MpcOp.CONV:
            return [_full(shapes[0])]
        case _:
            return [box for _ in shapes]


def _aligned(shape: Shape, box: Box) -> Box:
    """The positions of an operand that numpy's rules broadcast to a box."""
    behind = box[len(box) - len(shape) :]
    return tuple(np.zeros(1, np.int64) if n == 1 else axis for n, axis in zip(shape, behind, strict=True))


def _sources(program: MpcProgram, instr: MpcInstr, box: Box) -> list[tuple[NDArray[np.bool_], Box] | None]:
    """Per operand of a gather: which elements of the box come from it, and their positions; None for no element."""
    flat, found, start = _places(program, instr, box), [], 0
    for operand in instr.args:
        shape = program.instrs[operand].shape
        end = start + prod(shape)
        here = (flat >= start) & (flat < end)
        taken = _positions(flat[here] - start, shape)
        found.append((here, tuple(np.unique(axis) for axis in taken)) if here.any() else None)
        start = end
    return found


def _positions(flat: IntArray, shape: Shape) -> Box:
    """Per axis where elements are; a scalar has no axis."""
    return tuple(np.unravel_index(flat, shape)) if shape else ()


def _places(program: MpcProgram, instr: MpcInstr, box: Box) -> IntArray:
    """Per element of the box its place among all operands' elements."""
    flat = np.arange(instr.size) if instr.index < 0 else program.indices[instr.index]
    return np.asarray(flat.reshape(instr.shape)[np.ix_(*box)].reshape(-1), np.int64)


class _Narrowing:
    """The program anew."""

    def __init__(self, program: MpcProgram, boxes: list[Box | None]) -> None:
        self.program, self.boxes = program, boxes
        self.instrs: list[MpcInstr] = []
        self.consts: list[MpcConst] = []
        self.indices: list[Index] = []
        self.new: dict[int, int] = {}
        self._numbers: dict[tuple[int, bytes], int] = {}

    def result(self) -> MpcProgram:
        """Everything."""
        for number, (instr, box) in enumerate(zip(self.program.instrs, self.boxes, strict=True)):
            if box is not None:
                made = self.gather if instr.op is MpcOp.GATHER else self.cut
                self.new[number] = made(number, instr, box)
        return replace(
            self.program,
            instrs=tuple(self.instrs),
            consts=tuple(self.consts),
            indices=tuple(self.indices),
            inputs={n: replace(p, value=self.new[p.value]) for n, p in self.program.inputs.items()},
            outputs={n: replace(p, value=self.new[p.value]) for n, p in self.program.outputs.items()},
        )

    def emit(self, instr: MpcInstr) -> int:
        self.instrs.append(instr)
        return len(self.instrs) - 1

    def cut(self, number: int, instr: MpcInstr, box: Box) -> int:
        """An instruction that is no data movement."""
        wanted = _wanted(self.program, number, box)
        args = tuple(self.taken(a, w, instr.origin) for a, w in zip(instr.args, wanted, strict=True) if w is not None)
        weight = instr.weight
        if weight >= 0:
            weight = self.const(weight, self.rows(instr, box) if instr.op is not MpcOp.CONV else None)
        bias = self.const(instr.bias, box) if instr.bias >= 0 else -1
        return self.emit(replace(instr, args=args, shape=_shape(box), weight=weight, bias=bias))

    def rows(self, instr: MpcInstr, box: Box) -> Box:
        """The positions of a weight that broadcasts to the box; of a matrix all rows."""
        shape = self.program.consts[instr.weight].values.shape
        if instr.op is MpcOp.SCALE:
            return box
        return (*_aligned(shape[:-2], box[:-2]), np.arange(shape[-2]), box[-1])

    def const(self, number: int, box: Box | None) -> int:
        """A constant at the positions that are needed; equal ones stay one."""
        old = self.program.consts[number]
        values = old.values
        if box is not None and values.ndim:
            values = values[np.ix_(*_aligned(values.shape, box))]
        key = number, np.asarray(values.shape).tobytes() + values.tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self.consts)
            self.consts.append(old if values.shape == old.values.shape else replace(old, values=values.copy()))
        return self._numbers[key]

    def taken(self, operand: int, wanted: Box, origin: int) -> int:
        """An operand cut to what one reader needs of it."""
        held = self.held(operand)
        if _shape(held) == _shape(wanted):
            return self.new[operand]
        at = np.ix_(*(np.searchsorted(h, w) for h, w in zip(held, wanted, strict=True)))
        index = np.arange(prod(_shape(held))).reshape(_shape(held))[at]
        return self.moved((self.new[operand],), index.reshape(-1), _shape(wanted), operand, origin)

    def held(self, operand: int) -> Box:
        """What there is of a value that somebody reads."""
        return self.boxes[operand] or ()

    def gather(self, number: int, instr: MpcInstr, box: Box) -> int:
        """A data movement, its index cut and counted anew."""
        flat = _places(self.program, instr, box)
        index = np.full(flat.size, -1)
        args: list[int] = []
        start = before = 0
        for operand, source in zip(instr.args, _sources(self.program, instr, box), strict=True):
            shape = self.program.instrs[operand].shape
            if source is not None:
                held, here = self.held(operand), source[0]
                taken = _positions(flat[here] - start, shape)
                place = [np.searchsorted(h, t) for h, t in zip(held, taken, strict=True)]
                index[here] = before + np.ravel_multi_index(tuple(place), _shape(held)) if place else before
                args.append(self.new[operand])
                before += prod(_shape(held))
            start += prod(shape)
        return self.moved(tuple(args) or (self.zero(instr),), index, _shape(box), number, instr.origin)

    def zero(self, instr: MpcInstr) -> int:
        """Some value: a gather of nothing but zeros names one."""
        return next(self.new[a] for a in range(len(self.program)) if a in self.new and self._frac(a) == instr.frac)

    def _frac(self, number: int) -> int:
        return self.program.instrs[number].frac

    def moved(self, args: tuple[int, ...], index: IntArray, shape: Shape, of: int, origin: int) -> int:
        """A gather, or a reshape where everything stays in its place."""
        size = sum(self.instrs[a].size for a in args)
        frac = self._frac(of)
        if len(args) == 1 and index.size == size and (index == np.arange(size)).all():
            return self.emit(MpcInstr(MpcOp.GATHER, args, shape, frac, origin))
        self.indices.append(index.astype(np.int32) if size < 2**31 else index)
        return self.emit(MpcInstr(MpcOp.GATHER, args, shape, frac, origin, index=len(self.indices) - 1))
