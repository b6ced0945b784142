"""What MPC programs compute: the opcodes on ring elements and on numbers, and whole programs on numbers.

The meaning in float64 rounds nothing but the constants; it is the reference of every engine, and what
range analysis looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import InternalError, ShapeMismatch
from pi_compiler.ir.graph import FloatArray, Shape
from pi_compiler.ir.mpc_program import Attrs, MpcConst, MpcOp, MpcPort, MpcProgram

Array: TypeAlias = NDArray[Any]
"""Ring elements (int64) or numbers (float64)."""

_EXACT = 2.0**53  # whole numbers below are exact in float64, and so are their sums


def evaluate(
    program: MpcProgram,
    inputs: Mapping[str, FloatArray],
    *,
    keep: Callable[[int, FloatArray], None] | None = None,
) -> dict[str, FloatArray]:
    """The outputs of a program in numbers.

    Args:
        program: what to compute.
        inputs: per input name samples (B, *port.shape).
        keep: called with every instruction's number and value (B, *shape).
    """
    ports = {port.value: (name, port) for name, port in program.inputs.items()}
    last = program.last_uses()
    values: dict[int, FloatArray] = {}
    for number, instr in enumerate(program.instrs):
        if instr.op is MpcOp.INPUT:
            name, port = ports[number]
            values[number] = shared_rows(port, inputs[name])
        elif instr.op is MpcOp.REVEAL:
            values[number] = values[instr.args[0]]
        else:
            values[number] = float_step(program, number, [values[a] for a in instr.args])
        if keep is not None:
            keep(number, values[number])
        for value in {*instr.args, number}:
            if last[value] <= number:
                values.pop(value, None)
    return {name: values[port.value] for name, port in program.outputs.items()}


def shared_rows(port: MpcPort, values: FloatArray) -> FloatArray:
    """What the owner shares: the numbers, or the one-hot rows of class numbers.

    Raises:
        ShapeMismatch: a class number that does not exist.
    """
    numbers = np.asarray(values, np.float64)
    if not port.classes:
        return numbers
    found = np.rint(numbers).astype(np.int64)
    if found.size and (found.min() < 0 or found.max() >= port.classes or (found != numbers).any()):
        raise ShapeMismatch(f"class numbers must be whole, from 0 to {port.classes - 1}")
    return np.eye(port.classes)[found]


def float_step(program: MpcProgram, number: int, operands: Sequence[FloatArray]) -> FloatArray:
    """One instruction on numbers; nothing is truncated."""
    match program.instrs[number].op:
        case MpcOp.TRUNCATE:
            return operands[0]
        case MpcOp.LTZ:
            return (operands[0] < 0.0).astype(np.float64)
        case _:
            return meaning(program, number, operands).astype(np.float64, copy=False)


def meaning(program: MpcProgram, number: int, operands: Sequence[Array]) -> Array:
    """An opcode that is exact in any protocol: on ring elements (wrapping around) or on numbers, each (B, *shape)."""
    instr = program.instrs[number]
    floats = operands[0].dtype.kind == "f"
    weight = _constant(program, instr.weight, floats)
    bias = _constant(program, instr.bias, floats)
    x = operands[0]
    match instr.op:
        case MpcOp.CONV:
            if weight is None:
                raise InternalError("a convolution without its weight")
            return _plus(_conv(x, weight, instr.attrs, instr.shape), bias)
        case MpcOp.MATMUL:
            if weight is None:
                raise InternalError("a matrix product without its weight")
            return _plus(_batched(x, weight, len(program.instrs[instr.args[0]].shape), instr.shape), bias)
        case MpcOp.SCALE:
            return _plus(x if weight is None else x * weight, bias)
        case MpcOp.DOT:
            return _dot(x, operands[1], [len(program.instrs[a].shape) for a in instr.args])
        case MpcOp.ADD:
            return x + operands[1]
        case MpcOp.SUB:
            return x - operands[1]
        case MpcOp.MUL:
            a, b = (_lifted(v, len(instr.shape) + 1) for v in operands)
            return a * b
        case MpcOp.SQUARE:
            return x * x
        case MpcOp.GATHER:
            return _gather(program, number, operands)
        case MpcOp.SUM:
            return np.asarray(x.sum(axis=tuple(a + 1 for a in instr.attrs["axes"]))).reshape(len(x), *instr.shape)
        case _:
            raise InternalError(f"no engine gives {instr.op} a meaning")


def _constant(program: MpcProgram, place: int, floats: bool) -> Array | None:
    if place < 0:
        return None
    const: MpcConst = program.consts[place]
    return const.numbers if floats else const.values


def _plus(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + bias


def _lifted(x: Array, rank: int) -> Array:
    """(B, *shape) with ones behind B, up to a rank."""
    return x.reshape(len(x), *(1,) * (rank - x.ndim), *x.shape[1:])


def _batched(x: Array, weight: Array, rank: int, shape: Shape) -> Array:
    if rank == 1:
        return product(x, weight)
    return product(_lifted(x, len(shape) + 1), weight)


def _dot(a: Array, b: Array, ranks: Sequence[int]) -> Array:
    rank = max(ranks) + 1
    return product(_lifted(a, rank), _lifted(b, rank))


def product(a: Array, b: Array) -> Array:
    """A matrix product by numpy's rules; ring elements go through float64 where that is exact, which is much faster."""
    if a.dtype.kind == "i" and _exact_in_floats(a, b, a.shape[-1]):
        return np.rint(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    return np.asarray(a @ b)


def _exact_in_floats(a: Array, b: Array, terms: int) -> bool:
    """Whether sums of so many products of ring elements are exact in float64."""
    return float(np.abs(a).max(initial=0)) * float(np.abs(b).max(initial=0)) * terms < _EXACT


_CHUNK = 1 << 19  # elements of gathered windows held at a time: few, so that they stay in cache


def _conv(x: Array, weight: Array, attrs: Attrs, shape: Shape) -> Array:
    if x.dtype.kind == "i" and _exact_in_floats(x, weight, prod(weight.shape[1:])):
        # Converted before the windows are copied, which hold every element many times.
        return np.rint(_conv(x.astype(np.float64), weight.astype(np.float64), attrs, shape)).astype(np.int64)
    group, strides, dilations, pads = attrs["group"][0], attrs["strides"], attrs["dilations"], attrs["pads"]
    rank = len(strides)
    images = x.reshape(-1, *x.shape[2:])
    images = np.pad(images, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = tuple((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True))
    factor = weight.reshape(group, weight.shape[0] // group, -1)
    out = np.empty((len(images), *shape[1:]), x.dtype)
    step = max(1, _CHUNK // (prod(shape[2:]) * images.shape[1] * prod(weight.shape[2:])))
    for start in range(0, len(images), step):
        windows = np.lib.stride_tricks.sliding_window_view(
            images[start : start + step], reach, axis=tuple(range(2, 2 + rank))
        )
        at = tuple(slice(None, None, s) for s in strides) + tuple(slice(None, None, d) for d in dilations)
        windows = windows[(slice(None), slice(None), *at)]
        # Positions last: they are copied in long runs.
        taps = np.moveaxis(windows, range(2 + rank, 2 + 2 * rank), range(2, 2 + rank))
        columns = taps.reshape(len(windows), group, -1, prod(shape[2:]))
        out[start : start + step] = product(factor, columns).reshape(-1, *shape[1:])
    return out.reshape(len(x), *shape)


def _gather(program: MpcProgram, number: int, operands: Sequence[Array]) -> Array:
    instr = program.instrs[number]
    flat = np.concatenate([v.reshape(len(v), -1) for v in operands], axis=1)
    if instr.index < 0:
        return flat.reshape(len(flat), *instr.shape)
    index = program.indices[instr.index]
    found = flat[:, np.maximum(index, 0)]
    found[:, index < 0] = 0
    return found.reshape(len(flat), *instr.shape)
