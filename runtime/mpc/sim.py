"""``mpc-sim``: the ring arithmetic of all parties at once, integer-exact, on whole batches; and its meaning in floats.

The simulator holds the ring elements themselves and draws shares only where they matter: local truncation
splits a value into two random shares, divides both and adds them up, so that its rounding and its rare
wrap-around are those of two parties. Comparisons and products are exact in the ring, as the protocols' are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pi_compiler.errors import InternalError
from pi_compiler.ir.graph import FloatArray, Shape
from pi_compiler.ir.mpc_program import Attrs, MpcConst, MpcOp, MpcProgram, Ring, decode, encode
from pi_compiler.runtime.mpc.walk import Traffic

Truncation: TypeAlias = Literal["local", "interactive"]
Array: TypeAlias = NDArray[Any]

_EXACT = 2.0**53  # whole numbers below are exact in float64, and so are their sums


class RingEngine:
    """Ring elements (B, *shape) with the errors of a protocol.

    Args:
        program: what runs.
        truncation: ``"local"`` shares are divided one by one; ``"interactive"`` rounds up or down at random,
            without wrap-around.
        rng: where shares and roundings come from; fresh if None.
    """

    def __init__(
        self, program: MpcProgram, truncation: Truncation = "local", rng: np.random.Generator | None = None
    ) -> None:
        self.program = program
        self.truncation = truncation
        self.rng = np.random.default_rng() if rng is None else rng

    def share(self, number: int, values: FloatArray | None) -> Ring:
        """See ``walk.Engine``; a simulation knows every input."""
        if values is None:
            raise InternalError("a simulation needs the values of every input")
        return encode(values, self.program.instrs[number].frac)

    def reveal(self, number: int, operand: Ring) -> FloatArray:
        """The numbers."""
        return decode(operand, self.program.instrs[number].frac)

    def traffic(self) -> Traffic:
        """Nothing is sent."""
        return Traffic()

    def step(self, number: int, operands: Sequence[Ring]) -> Ring:
        """One instruction on a batch."""
        instr = self.program.instrs[number]
        match instr.op:
            case MpcOp.TRUNCATE:
                return self._truncate(operands[0], instr.attrs["bits"][0])
            case MpcOp.LTZ:
                return self._negative(operands[0], instr.attrs.get("low", (0,))[0])
            case _:
                result = meaning(self.program, number, operands)
                return result.astype(np.int64, copy=False)

    def _truncate(self, x: Ring, bits: int) -> Ring:
        if self.truncation == "interactive":
            up = self.rng.integers(0, 1 << bits, x.shape, dtype=np.int64)
            return (x + up) >> np.int64(bits)
        first = self.rng.integers(-(2**63), 2**63 - 1, x.shape, dtype=np.int64, endpoint=True)
        return _towards_zero(first, bits) + _towards_zero(x - first, bits)

    def _negative(self, x: Ring, low: int) -> Ring:
        negative = x < 0
        if low:
            draw = self.rng.integers(0, 1 << low, x.shape, dtype=np.int64)
            negative = negative | (x < draw)
        return negative.astype(np.int64)


class FloatEngine:
    """The meaning of a program in float64: nothing is rounded but the constants."""

    def __init__(self, program: MpcProgram) -> None:
        self.program = program

    def share(self, number: int, values: FloatArray | None) -> FloatArray:
        """See ``walk.Engine``."""
        if values is None:
            raise InternalError("a simulation needs the values of every input")
        return np.asarray(values, np.float64)

    def reveal(self, number: int, operand: FloatArray) -> FloatArray:
        """The numbers."""
        return operand

    def traffic(self) -> Traffic:
        """Nothing is sent."""
        return Traffic()

    def step(self, number: int, operands: Sequence[FloatArray]) -> FloatArray:
        """One instruction on a batch."""
        match self.program.instrs[number].op:
            case MpcOp.TRUNCATE:
                return operands[0]
            case MpcOp.LTZ:
                return (operands[0] < 0.0).astype(np.float64)
            case _:
                return meaning(self.program, number, operands).astype(np.float64, copy=False)


def _towards_zero(share: Ring, bits: int) -> Ring:
    """A share divided by 2^bits, rounded towards zero."""
    lift = (share >> np.int64(63)) & np.int64((1 << bits) - 1)
    return (share + lift) >> np.int64(bits)


def meaning(program: MpcProgram, number: int, operands: Sequence[Array]) -> Array:
    """An opcode that is exact: on ring elements (wrapping around) or on numbers, each (B, *shape)."""
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
    if a.dtype.kind == "f":
        return np.asarray(a @ b)
    largest = float(np.abs(a).max(initial=0)) * float(np.abs(b).max(initial=0)) * a.shape[-1]
    if largest < _EXACT:
        return np.rint(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    return np.asarray(a @ b)


_CHUNK = 1 << 23  # elements of gathered windows held at a time


def _conv(x: Array, weight: Array, attrs: Attrs, shape: Shape) -> Array:
    group, strides, dilations, pads = attrs["group"][0], attrs["strides"], attrs["dilations"], attrs["pads"]
    rank = len(strides)
    images = x.reshape(-1, *x.shape[2:])
    images = np.pad(images, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = tuple((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True))
    factor = weight.reshape(group, weight.shape[0] // group, -1).transpose(0, 2, 1)
    out = np.empty((len(images), *shape[1:]), x.dtype)
    step = max(1, _CHUNK // (prod(shape[2:]) * images.shape[1] * prod(weight.shape[2:])))
    for start in range(0, len(images), step):
        windows = np.lib.stride_tricks.sliding_window_view(
            images[start : start + step], reach, axis=tuple(range(2, 2 + rank))
        )
        at = tuple(slice(None, None, s) for s in strides) + tuple(slice(None, None, d) for d in dilations)
        windows = windows[(slice(None), slice(None), *at)]
        count = len(windows)
        columns = np.moveaxis(windows, 1, 1 + rank).reshape(count, prod(shape[2:]), group, -1)
        found = product(columns.transpose(2, 0, 1, 3).reshape(group, count * prod(shape[2:]), -1), factor)
        found = found.reshape(group, count, prod(shape[2:]), -1).transpose(1, 0, 3, 2)
        out[start : start + step] = found.reshape(count, *shape[1:])
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
