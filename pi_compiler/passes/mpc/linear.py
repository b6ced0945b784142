"""Linear layers and data movement on shares.

What stands before a linear layer as scale and shift goes into its weights and its bias; what stands behind
it stays open (``Lazy``) for the next one. Every data movement is a public index, and scales and shifts move
along with their elements. Constants that differ between elements are the model owner's secret; single
numbers and masks of zeros and ones belong to the architecture and are public.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from pi_compiler.errors import UnsupportedOperator
from pi_compiler.ir.graph import FloatArray, IntArray, Node
from pi_compiler.ir.mpc_program import MpcOp
from pi_compiler.ops import OPS
from pi_compiler.ops.convolution import Windows
from pi_compiler.ops.op import array, integer, ints, optional_array
from pi_compiler.ops.shaping import MOVES
from pi_compiler.passes.mpc.build import Builder
from pi_compiler.passes.mpc.functions import Lazy

MOVEMENTS = MOVES | {"Concat", "Pad"}
LINEAR = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Affine", "Add", "Sub", "AveragePool", "ReduceSum", "ReduceMean"}
)
_DENSE_LIMIT = 1 << 24  # entries of a matrix that stands for an operator without an opcode of its own


def linear(b: Builder, node: Node, operands: Sequence[Lazy]) -> Lazy:
    """One linear node."""
    match node.op:
        case "Conv":
            return _conv(b, node, operands[0])
        case "Gemm":
            return _gemm(b, node, operands[0])
        case "MatMul":
            return _matmul(b, node, operands[0])
        case "Affine":
            return _affine(node, operands[0])
        case "Add" | "Sub":
            return _add(b, node, operands)
        case "AveragePool":
            return _average_pool(b, node, operands[0])
        case "ReduceSum" | "ReduceMean":
            return _reduce(b, node, operands[0])
        case _ if node.op in MOVEMENTS:
            return _move(b, node, operands)
        case _:
            return _dense(b, node, operands[0])


def is_secret(values: FloatArray) -> bool:
    """Whether a constant tells about the training: neither one number for all nor a mask."""
    return bool(values.size > 1 and np.ptp(values) > 0.0 and not np.isin(values, (0.0, 1.0)).all())


def along(values: FloatArray, shape: Sequence[int], axis: int) -> FloatArray | None:
    """The vector along an axis that values are, if they depend on nothing else."""
    full = np.moveaxis(np.broadcast_to(values, tuple(shape)), axis, 0)
    rows = full.reshape(full.shape[0], -1)
    return np.array(rows[:, 0]) if (rows == rows[:, :1]).all() else None


def _conv(b: Builder, node: Node, x: Lazy) -> Lazy:
    weight, group = array(node, "weight"), integer(node, "group")
    scale = along(x.scale, b.shape(x.value), 1)
    if scale is None:
        x, scale = Lazy(x.made(b)), np.ones(b.shape(x.value)[1])
    factor = np.repeat(scale.reshape(group, 1, -1), weight.shape[0] // group, axis=1).reshape(weight.shape[:2])
    wide = weight * factor.reshape(*weight.shape[:2], *(1,) * (weight.ndim - 2))
    bias = _bias(node, x)
    attrs = {k: ints(node, k) for k in ("strides", "pads", "dilations")} | {"group": (group,)}
    return Lazy(b.weighted(MpcOp.CONV, x.value, wide, bias, node.shape, attrs))


def _bias(node: Node, x: Lazy) -> FloatArray | None:
    """What the layer makes of the operand's shift: the bias, along channels (axis 1) if it can be."""
    if not x.shift.any() and optional_array(node, "bias") is None:
        return None
    shift = np.broadcast_to(x.shift, (1, *node.inputs[0].shape))
    full = OPS[node.op].apply(node, [np.ascontiguousarray(shift)])[0]
    channels = along(full, node.shape, 1)
    return full if channels is None else channels.reshape(-1, *(1,) * (len(node.shape) - 2))


def _gemm(b: Builder, node: Node, x: Lazy) -> Lazy:
    weight, bias = array(node, "weight"), optional_array(node, "bias")
    shape = b.shape(x.value)
    scale = along(x.scale, shape, -1)
    if scale is None:
        x, scale = Lazy(x.made(b)), np.ones(shape[-1])
    if x.shift.any():
        moved = np.broadcast_to(x.shift, shape) @ weight + (0.0 if bias is None else bias)
        row = along(moved, node.shape, -1)
        bias = moved if row is None else row
    return Lazy(b.weighted(MpcOp.MATMUL, x.value, weight * scale[:, None], bias, node.shape))


def _matmul(b: Builder, node: Node, x: Lazy) -> Lazy:
    weight, value = array(node, "weight"), x.made(b)
    if not integer(node, "left"):
        return Lazy(b.weighted(MpcOp.MATMUL, value, weight, None, node.shape))
    turned = transposed(b, value)
    flipped = np.swapaxes(weight, -1, -2)
    shape = (*node.shape[:-2], node.shape[-1], node.shape[-2])
    return Lazy(transposed(b, b.weighted(MpcOp.MATMUL, turned, flipped, None, shape)))


def transposed(b: Builder, x: int) -> int:
    """The last two axes exchanged."""
    shape = b.shape(x)
    index = np.swapaxes(np.arange(prod(shape)).reshape(shape), -1, -2)
    return b.gather((x,), index, index.shape)


def _affine(node: Node, x: Lazy) -> Lazy:
    scale, shift = array(node, "scale"), array(node, "shift")
    return Lazy(x.value, x.scale * scale, x.shift * scale + shift, x.secret or is_secret(scale) or is_secret(shift))


def _add(b: Builder, node: Node, operands: Sequence[Lazy]) -> Lazy:
    """Sums; operands of equal scale are added before it is applied."""
    total = operands[0]
    for x in operands[1:]:
        ours, theirs = np.broadcast_arrays(total.scale, x.scale)
        same = np.array_equal(ours, theirs)
        if not same:
            total = Lazy(_scaled(b, total), shift=total.shift, secret=total.secret)
            x = Lazy(_scaled(b, x), shift=x.shift, secret=x.secret)
        join, shift = (b.add, x.shift) if node.op == "Add" else (b.sub, -x.shift)
        total = Lazy(join(total.value, x.value), total.scale, total.shift + shift, total.secret or x.secret)
    return total


def _scaled(b: Builder, x: Lazy) -> int:
    """A lazy value without its shift."""
    return Lazy(x.value, x.scale, np.zeros(()), x.secret).made(b)


def _move(b: Builder, node: Node, operands: Sequence[Lazy]) -> Lazy:
    """A data movement: values by a public index, scales and shifts likewise."""
    if len({id(o.scale) for o in operands}) > 1:
        operands = [Lazy(_scaled(b, o), shift=o.shift, secret=o.secret) for o in operands]
    index, fill = moved_index(node)
    value = b.gather([o.value for o in operands], index, node.shape)
    scale = operands[0].scale
    if scale.ndim:
        scale = _taken(scale, operands[0], b, index, np.ones(node.shape))
    shift = fill
    if any(o.shift.any() for o in operands):
        parts = [np.broadcast_to(o.shift, b.shape(o.value)).reshape(-1) for o in operands]
        joined = np.concatenate(parts)
        shift = np.where(index < 0, fill, joined[np.maximum(index, 0)])
    elif not fill.any():
        shift = np.zeros(())
    secret = any(o.secret for o in operands) or is_secret(fill)
    return Lazy(value, scale, shift, secret)


def _taken(values: FloatArray, x: Lazy, b: Builder, index: IntArray, fill: FloatArray) -> FloatArray:
    full = np.broadcast_to(values, b.shape(x.value)).reshape(-1)
    return np.where(index < 0, fill, full[np.maximum(index, 0)])


def moved_index(node: Node) -> tuple[IntArray, FloatArray]:
    """Per element of the result its place among all operands' elements (-1: constant), and the constants."""
    apply, start = OPS[node.op].apply, 1.0
    zeros = [np.zeros((1, *i.shape)) for i in node.inputs]
    fill = apply(node, zeros)[0]
    numbers = []
    for operand in node.inputs:
        numbers.append(np.arange(start, start + operand.size).reshape(1, *operand.shape))
        start += operand.size
    index = np.rint(apply(node, numbers)[0] - fill).astype(np.int64) - 1
    return index, fill


def _average_pool(b: Builder, node: Node, x: Lazy) -> Lazy:
    x = _uniform(b, x)
    shape = b.shape(x.value)
    kernel, strides, dilations, pads = (ints(node, k) for k in ("kernel", "strides", "dilations", "pads"))
    windows = Windows(shape[2:], node.shape[2:], kernel, strides, dilations, pads)
    numbers = windows.numbers()
    planes = np.arange(shape[0] * shape[1]).reshape(-1, 1, 1) * prod(shape[2:])
    index = np.where(numbers >= 0, numbers + planes, -1)
    total = b.sum(b.gather((x.value,), index, index.shape), (2,), node.shape)
    counts = (numbers >= 0).sum(axis=1).astype(np.float64)
    share = np.array(1.0 / counts[0]) if np.ptp(counts) == 0 else (1.0 / counts).reshape(node.shape[2:])
    return Lazy(total, x.scale * share, x.shift, x.secret)


def _uniform(b: Builder, x: Lazy) -> Lazy:
    """The operand with one scale and one shift for all, which averages keep."""
    if x.scale.size == 1 and x.shift.size == 1:
        return Lazy(x.value, x.scale.reshape(()), x.shift.reshape(()), x.secret)
    return Lazy(x.made(b))


def _reduce(b: Builder, node: Node, x: Lazy) -> Lazy:
    x = _uniform(b, x)
    count = prod(b.shape(x.value)) // node.size
    total = b.sum(x.value, ints(node, "axes"), node.shape)
    if node.op == "ReduceMean":
        return Lazy(total, x.scale / count, x.shift, x.secret)
    return Lazy(total, x.scale, x.shift * count, x.secret)


def _dense(b: Builder, node: Node, x: Lazy) -> Lazy:
    """An operator without an opcode as one matrix on all elements."""
    size = node.inputs[0].size
    if len(node.inputs) != 1 or size * node.size > _DENSE_LIMIT:
        raise UnsupportedOperator(
            f"{node.op} {node.origin!r} has no lowering to shares at this size",
            f"its matrix has {size * node.size:,} entries, at most {_DENSE_LIMIT:,} are possible",
        )
    (matrix,), bias = OPS[node.op].matrix(node)
    flat = b.reshape(x.made(b), (size,))
    made = b.weighted(MpcOp.MATMUL, flat, matrix.toarray().T, bias, (node.size,))
    return Lazy(b.reshape(made, node.shape))
