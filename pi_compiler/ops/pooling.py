"""Average pooling and reductions: sums of elements with equal weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from scipy import sparse

from pi_compiler.errors import ShapeMismatch, UnsupportedOperator
from pi_compiler.ir.graph import FloatArray, IntArray, Node, Shape
from pi_compiler.ops.convolution import Windows, explicit_pads, spatial
from pi_compiler.ops.op import Arrays, Call, Matrix, Op, Reader, Writer, axes_of, integer, ints, rows_matrix
from pi_compiler.ops.shaping import checked, pad, reshape

# AveragePool: kernel, strides, pads, dilations. Padding never counts: what ceil_mode lets a window overhang is
# padding, and padding that does count is a Pad before.


def _windows(node: Node, size: Shape) -> Windows:
    return Windows(
        size, node.shape[2:], ints(node, "kernel"), ints(node, "strides"), ints(node, "dilations"), ints(node, "pads")
    )


def _counts(windows: Windows) -> FloatArray:
    """How many elements each position sees, in the shape of the positions."""
    ones = windows.padded(np.ones(windows.size))
    return np.asarray(sum(ones[tap] for tap in windows.taps_of()))


def _average(node: Node, arrays: Arrays) -> FloatArray:
    x = arrays[0]
    windows = _windows(node, x.shape[3:])
    padded = windows.padded(x)
    total = np.zeros((len(x), *node.shape))
    for tap in windows.taps_of():
        total += padded[tap]
    return total / _counts(windows)


def _average_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    windows = _windows(node, node.inputs[0].shape[2:])
    numbers = windows.numbers()
    inside = numbers >= 0
    share = np.broadcast_to((1.0 / _counts(windows)).reshape(-1, 1), numbers.shape)
    shape = (windows.positions, prod(windows.size))
    one = rows_matrix(share[inside], numbers[inside], inside.sum(axis=1), shape)
    planes = sparse.eye_array(node.shape[0] * node.shape[1])
    return (sparse.csr_array(sparse.kron(planes, one, format="csr")),), np.zeros(node.size)


def read_average_pool(call: Call) -> Node:
    """AveragePool, and MaxPool where averaging replaces it."""
    x, kernel = call.node(0), call.list("kernel_shape")
    rank = len(x.shape) - 2
    if rank < 1 or kernel is None or len(kernel) != rank or min(kernel) < 1:
        raise ShapeMismatch(f"kernel_shape {kernel} on a tensor of shape {list(x.shape)}")
    strides, dilations = spatial(call, "strides", rank), spatial(call, "dilations", rank)
    pads = explicit_pads(call, x.shape[2:], kernel, strides, dilations)
    ceil_mode = call.integer("ceil_mode", 0) if call.text("auto_pad", "NOTSET") in ("NOTSET", "") else 0
    reach = [(k - 1) * e + 1 for k, e in zip(kernel, dilations, strict=True)]
    whole = [pads[i] + n + pads[i + rank] for i, n in enumerate(x.shape[2:])]
    checked((*x.shape[:2], *whole))
    if any(r > n for r, n in zip(reach, whole, strict=True)):
        raise ShapeMismatch(f"kernel {list(kernel)} does not fit into {list(x.shape[2:])}")
    out: list[int] = []
    behind: list[int] = []
    for i, n in enumerate(x.shape[2:]):
        room = whole[i] - reach[i]
        steps = -(-room // strides[i]) if ceil_mode else room // strides[i]
        # A window may not start behind the last element: it would see nothing.
        if ceil_mode and steps * strides[i] >= n + pads[i]:
            steps -= 1
        out.append(steps + 1)
        behind.append(max(0, steps * strides[i] + reach[i] - pads[i] - n) if ceil_mode else pads[i + rank])
    if call.integer("count_include_pad", 0) and any(pads):
        x = pad(x, (0, 0, *pads[:rank]), (0, 0, *pads[rank:]), call.name)
        behind = [max(0, b - p) for b, p in zip(behind, pads[rank:], strict=True)]
        pads = (0,) * (2 * rank)
    node = Node(
        "AveragePool",
        (x,),
        (*x.shape[:2], *out),
        {"kernel": kernel, "strides": strides, "pads": (*pads[:rank], *behind), "dilations": dilations},
        call.name,
    )
    if not _counts(_windows(node, x.shape[2:])).all():
        raise ShapeMismatch(f"pads {list(pads)} let a window see padding only")
    return node


def _emit_average(node: Node, inputs: Sequence[str], out: Writer) -> str:
    attrs = {k: node.attrs[k] for k in ("strides", "pads", "dilations")}
    return out.call("AveragePool", inputs, node.origin, kernel_shape=node.attrs["kernel"], **attrs)


def _read_max_pool(call: Call) -> Node:
    raise UnsupportedOperator(
        "a maximum needs comparisons, which encrypted numbers do not have",
        hint="average pooling: retrain with AveragePool, or let maxpool='average' (--maxpool average) replace it",
    )


# ReduceSum and ReduceMean: axes, keepdims.


def _reduce_shape(shape: Shape, axes: tuple[int, ...], keep: bool) -> Shape:
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes)


def _sum(node: Node, arrays: Arrays) -> FloatArray:
    axes = tuple(a + 1 for a in ints(node, "axes"))
    return np.asarray(arrays[0].sum(axis=axes, keepdims=bool(integer(node, "keepdims"))))


def _mean(node: Node, arrays: Arrays) -> FloatArray:
    return _sum(node, arrays) / (node.inputs[0].size // node.size)


def _targets(node: Node) -> IntArray:
    """Per element of the operand the element of the result that it is summed into."""
    x = node.inputs[0]
    kept = _reduce_shape(x.shape, ints(node, "axes"), True)
    return np.broadcast_to(np.arange(node.size).reshape(kept), x.shape).reshape(-1)


def _sum_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    size = node.inputs[0].size
    spread = rows_matrix(np.ones(size), _targets(node), np.ones(size, np.int64), (size, node.size))
    return (sparse.csr_array(spread.T),), np.zeros(node.size)


def _mean_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    (matrix,), bias = _sum_matrix(node)
    return (matrix / (node.inputs[0].size // node.size),), bias


def _reduce(op: str, call: Call) -> Node:
    x, axes = call.node(0), call.list("axes", 1)
    if not axes and call.integer("noop_with_empty_axes", 0):
        return x
    keep = call.integer("keepdims", 1)
    chosen = axes_of(axes or None, len(x.shape))
    shape = _reduce_shape(x.shape, chosen, bool(keep))
    if prod(shape) == x.size:
        return reshape(x, shape, call.name)
    return Node(op, (x,), shape, {"axes": chosen, "keepdims": int(bool(keep))}, call.name)


def _read_sum(call: Call) -> Node:
    return _reduce("ReduceSum", call)


def _read_mean(call: Call) -> Node:
    return _reduce("ReduceMean", call)


def _read_global_average(call: Call) -> Node:
    x = call.node(0)
    if len(x.shape) < 3:
        raise ShapeMismatch(f"global pooling of a tensor of shape {list(x.shape)}")
    spatial_axes = tuple(range(2, len(x.shape)))
    shape = _reduce_shape(x.shape, spatial_axes, True)
    if shape == x.shape:
        return x
    return Node("ReduceMean", (x,), shape, {"axes": spatial_axes, "keepdims": 1}, call.name)


def _emit_reduce(node: Node, inputs: Sequence[str], out: Writer) -> str:
    axes = out.constant(np.array(ints(node, "axes"), np.int64))
    return out.call(node.op, [inputs[0], axes], node.origin, keepdims=integer(node, "keepdims"))


OPS = (
    Op("AveragePool", "linear", _average, _average_matrix, emit=_emit_average),
    Op("ReduceSum", "linear", _sum, _sum_matrix, emit=_emit_reduce),
    Op("ReduceMean", "linear", _mean, _mean_matrix, emit=_emit_reduce),
)
READERS = {
    "AveragePool": Reader(read_average_pool, 22),
    "MaxPool": Reader(_read_max_pool, 22),
    "GlobalMaxPool": Reader(_read_max_pool, 22),
    "GlobalAveragePool": Reader(_read_global_average, 22),
    "ReduceSum": Reader(_read_sum, 13),
    "ReduceMean": Reader(_read_mean, 18),
}
