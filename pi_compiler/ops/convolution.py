"""Convolutions and their transposes, in any number of spatial dimensions.

Both are one gather of windows and one matrix product; the sparse matrix comes from the same windows
taken over element numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from types import EllipsisType

import numpy as np
from scipy import sparse

from pi_compiler.errors import ShapeMismatch
from pi_compiler.ir.graph import Attr, FloatArray, IntArray, Node, Shape
from pi_compiler.ops.op import (
    Arrays,
    Call,
    Matrix,
    Op,
    Reader,
    Writer,
    array,
    integer,
    ints,
    optional_array,
    rows_matrix,
)

_CHUNK = 1 << 22  # elements of gathered windows held at a time: 32 MB


@dataclass(frozen=True, slots=True)
class Windows:
    """Where a kernel looks: spatial sizes and steps, one entry per spatial dimension.

    Attributes:
        size: of the tensor that is looked at.
        out: number of positions.
        kernel: taps.
        strides: between positions.
        dilations: between taps.
        pads: in front and behind, as ONNX writes them.
    """

    size: Shape
    out: Shape
    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: Shape

    @property
    def taps(self) -> int:
        """Number of taps."""
        return prod(self.kernel)

    @property
    def positions(self) -> int:
        """Number of positions."""
        return prod(self.out)

    def padded(self, x: FloatArray, fill: float = 0.0) -> FloatArray:
        """A tensor with its last dimensions padded, far enough that every window lies inside."""
        d = len(self.size)
        lead = [(0, 0)] * (x.ndim - d)
        need = [(o - 1) * s + (k - 1) * e + 1 for o, s, k, e in self.steps()]
        tail = [
            (b, max(e, n - b - size))
            for b, e, n, size in zip(self.pads[:d], self.pads[d:], need, self.size, strict=True)
        ]
        return np.pad(x, lead + tail, constant_values=fill) if any(map(any, tail)) else x

    def taps_of(self) -> Iterator[tuple[slice | EllipsisType, ...]]:
        """Per tap, in order, the part of the padded tensor that it sees."""
        for tap in product(*(range(k) for k in self.kernel)):
            seen = zip(tap, self.steps(), strict=True)
            yield (..., *(slice(t * e, t * e + (o - 1) * s + 1, s) for t, (o, s, _, e) in seen))

    def numbers(self) -> IntArray:
        """(positions, taps) element numbers, -1 in the padding."""
        index = self.padded(np.arange(prod(self.size), dtype=np.float64).reshape(self.size), -1.0)
        seen = [index[tap].reshape(-1) for tap in self.taps_of()]
        return np.stack(seen, axis=1).astype(np.int64)

    def steps(self) -> Iterator[tuple[int, int, int, int]]:
        """Per spatial dimension: positions, stride, taps, dilation."""
        return zip(self.out, self.strides, self.kernel, self.dilations, strict=True)


def spatial(call: Call, name: str, rank: int) -> Shape:
    """An attribute with one positive entry per spatial dimension, ones if left out."""
    found = call.list(name) or (1,) * rank
    if len(found) != rank or min(found) < 1:
        raise ShapeMismatch(f"attribute {name!r} is {list(found)}, needed {rank} positive numbers")
    return found


def explicit_pads(call: Call, size: Shape, kernel: Shape, strides: Shape, dilations: Shape) -> Shape:
    """Padding in front and behind, ``auto_pad`` resolved."""
    rank = len(size)
    mode = call.text("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        found = call.list("pads") or (0,) * (2 * rank)
        if len(found) != 2 * rank or min(found) < 0:
            raise ShapeMismatch(f"attribute 'pads' is {list(found)}, needed {2 * rank} numbers that are not negative")
        return found
    if mode == "VALID":
        return (0,) * (2 * rank)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise ShapeMismatch(f"attribute 'auto_pad' is {mode!r}")
    total = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * e + 1 - n)
        for n, s, k, e in zip(size, strides, kernel, dilations, strict=True)
    ]
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return small + large if mode == "SAME_UPPER" else large + small


def _windows(node: Node, size: Shape, out: Shape) -> Windows:
    kernel = array(node, "weight").shape[2:]
    return Windows(size, out, kernel, ints(node, "strides"), ints(node, "dilations"), ints(node, "pads"))


# Conv: weight (out channels, in channels / group, *kernel), bias (out channels,) or none.


def _conv(node: Node, arrays: Arrays) -> FloatArray:
    x, weight, group = arrays[0], array(node, "weight"), integer(node, "group")
    windows = _windows(node, x.shape[3:], node.shape[2:])
    samples, channels = x.shape[0] * x.shape[1], x.shape[2]
    x = windows.padded(x.reshape(samples, channels, *x.shape[3:]))
    factor = weight.reshape(group, weight.shape[0] // group, -1)
    y = np.empty((samples, group, factor.shape[1], windows.positions))
    step = max(1, _CHUNK // (channels * windows.taps * windows.positions))
    for start in range(0, samples, step):
        part = x[start : start + step]
        columns = np.empty((len(part), channels, windows.taps, *windows.out))
        for k, tap in enumerate(windows.taps_of()):
            columns[:, :, k] = part[tap]
        np.matmul(factor, columns.reshape(len(part), group, -1, windows.positions), out=y[start : start + step])
    if (bias := optional_array(node, "bias")) is not None:
        y += bias.reshape(group, -1, 1)
    return y.reshape(len(arrays[0]), *node.shape)


def _taps_matrix(weight: FloatArray, group: int, windows: Windows, channels: int) -> Matrix:
    """The (out channels * positions, channels * size) matrix of a convolution, zeros left out."""
    numbers = windows.numbers()
    inside = numbers >= 0
    size = prod(windows.size)
    per_group = weight.shape[0] // group
    flat = weight.reshape(weight.shape[0], -1, 1, windows.taps).transpose(0, 2, 1, 3)
    data: list[FloatArray] = []
    columns: list[IntArray] = []
    counts: list[IntArray] = []
    for o in range(weight.shape[0]):
        used = inside[:, None, :] & (flat[o] != 0.0)
        first = (o // per_group) * weight.shape[1]
        place = (np.arange(first, first + weight.shape[1]) * size)[:, None] + numbers[:, None, :]
        data.append(np.broadcast_to(flat[o], used.shape)[used])
        columns.append(place[used].astype(np.int32 if channels * size < 2**31 else np.int64))
        counts.append(used.sum(axis=(1, 2)))
    shape = (weight.shape[0] * windows.positions, channels * size)
    return rows_matrix(np.concatenate(data), np.concatenate(columns), np.concatenate(counts), shape)


def _conv_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    weight, x = array(node, "weight"), node.inputs[0]
    one = _taps_matrix(weight, integer(node, "group"), _windows(node, x.shape[2:], node.shape[2:]), x.shape[1])
    return _per_sample(one, node)


def _per_sample(one: Matrix, node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    """The matrix for every sample of ONNX's own batch dimension, and the bias per channel."""
    samples, channels, *rest = node.shape
    bias = optional_array(node, "bias")
    per_channel = np.zeros(channels) if bias is None else bias
    matrix = one if samples == 1 else sparse.csr_array(sparse.block_diag([one] * samples, format="csr"))
    return (matrix,), np.tile(np.repeat(per_channel, prod(rest)), samples)


def _bias(call: Call, channels: int) -> dict[str, Attr]:
    bias = call.floats(2)
    if bias is None:
        return {}
    if bias.shape != (channels,):
        raise ShapeMismatch(f"bias of shape {bias.shape} for {channels} channels")
    return {"bias": bias}


def _read_conv(call: Call) -> Node:
    x, weight, group = call.node(0), call.weights(1), call.integer("group", 1)
    rank = len(x.shape) - 2
    if rank < 1 or weight.ndim != rank + 2 or group < 1 or weight.shape[0] % group:
        raise ShapeMismatch(f"weight of shape {weight.shape}, {group} groups, on a tensor of shape {x.shape}")
    if weight.shape[1] * group != x.shape[1]:
        raise ShapeMismatch(f"weight for {weight.shape[1] * group} channels on a tensor of shape {x.shape}")
    kernel = weight.shape[2:]
    if (declared := call.list("kernel_shape")) is not None and declared != kernel:
        raise ShapeMismatch(f"kernel_shape {list(declared)} with a weight of shape {weight.shape}")
    strides, dilations = spatial(call, "strides", rank), spatial(call, "dilations", rank)
    pads = explicit_pads(call, x.shape[2:], kernel, strides, dilations)
    out = tuple(
        (n + pads[i] + pads[i + rank] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1
        for i, n in enumerate(x.shape[2:])
    )
    if min(out) < 1:
        raise ShapeMismatch(f"kernel {list(kernel)} does not fit into {list(x.shape[2:])}")
    attrs: dict[str, Attr] = dict(weight=weight, strides=strides, dilations=dilations, pads=pads, group=group)
    attrs |= _bias(call, weight.shape[0])
    return Node("Conv", (x,), (x.shape[0], weight.shape[0], *out), attrs, call.name)


def _operands(node: Node, inputs: Sequence[str], out: Writer) -> list[str]:
    bias = optional_array(node, "bias")
    operands = [inputs[0], out.constant(array(node, "weight"))]
    return operands if bias is None else [*operands, out.constant(bias)]


def _emit_conv(node: Node, inputs: Sequence[str], out: Writer) -> str:
    attrs = {k: node.attrs[k] for k in ("strides", "dilations", "pads", "group")}
    return out.call("Conv", _operands(node, inputs, out), node.origin, **attrs)


# ConvTranspose: weight (in channels, out channels / group, *kernel); the transpose of the Conv with that weight.


def _adjoint(node: Node, x_shape: Shape) -> Windows:
    """The windows of the convolution that it is the transpose of: from the result's size to the operand's."""
    return _windows(node, node.shape[2:], x_shape[2:])


def _conv_transpose(node: Node, arrays: Arrays) -> FloatArray:
    weight, group = array(node, "weight"), integer(node, "group")
    windows = _adjoint(node, node.inputs[0].shape)
    samples, channels = len(arrays[0]) * node.shape[0], weight.shape[0]
    x = arrays[0].reshape(samples, group, channels // group, windows.positions)
    factor = weight.reshape(group, channels // group, -1).transpose(0, 2, 1)
    rank = len(windows.size)
    # The padded result, into which every tap adds what it reached.
    y = windows.padded(np.zeros((samples, node.shape[1], *windows.size)))
    step = max(1, _CHUNK // (node.shape[1] * windows.taps * windows.positions))
    for start in range(0, samples, step):
        part = x[start : start + step]
        reached = np.matmul(factor, part).reshape(len(part), node.shape[1], windows.taps, *windows.out)
        for k, tap in enumerate(windows.taps_of()):
            y[start : start + step][tap] += reached[:, :, k]
    inner = [slice(b, b + n) for b, n in zip(windows.pads[:rank], windows.size, strict=True)]
    y = y[(slice(None), slice(None), *inner)]
    if (bias := optional_array(node, "bias")) is not None:
        y = y + bias.reshape(-1, *(1,) * rank)
    return np.ascontiguousarray(y).reshape(len(arrays[0]), *node.shape)


def _conv_transpose_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    weight = array(node, "weight")
    forward = _taps_matrix(weight, integer(node, "group"), _adjoint(node, node.inputs[0].shape), node.shape[1])
    return _per_sample(sparse.csr_array(forward.T), node)


def _read_conv_transpose(call: Call) -> Node:
    x, weight, group = call.node(0), call.weights(1), call.integer("group", 1)
    rank = len(x.shape) - 2
    if rank < 1 or weight.ndim != rank + 2 or group < 1 or weight.shape[0] % group or weight.shape[0] != x.shape[1]:
        raise ShapeMismatch(f"weight of shape {weight.shape}, {group} groups, on a tensor of shape {x.shape}")
    kernel = weight.shape[2:]
    strides, dilations = spatial(call, "strides", rank), spatial(call, "dilations", rank)
    extra = call.list("output_padding") or (0,) * rank
    if len(extra) != rank or min(extra) < 0:
        raise ShapeMismatch(f"attribute 'output_padding' is {list(extra)}, needed {rank} numbers that are not negative")
    full = tuple(
        (n - 1) * strides[i] + extra[i] + (kernel[i] - 1) * dilations[i] + 1 for i, n in enumerate(x.shape[2:])
    )
    full, pads = _transposed_pads(call, x.shape[2:], full, strides)
    out = tuple(n - pads[i] - pads[i + rank] for i, n in enumerate(full))
    if min(out) < 1:
        raise ShapeMismatch(f"padding {list(pads)} leaves nothing of {list(full)}")
    channels = weight.shape[1] * group
    attrs: dict[str, Attr] = dict(weight=weight, strides=strides, dilations=dilations, pads=pads, group=group)
    attrs |= _bias(call, channels)
    return Node("ConvTranspose", (x,), (x.shape[0], channels, *out), attrs, call.name)


def _transposed_pads(call: Call, size: Shape, full: Shape, strides: Shape) -> tuple[Shape, Shape]:
    """The full size, larger if more is asked for, and what is cut off of it in front and behind.

    From ``pads``, ``auto_pad`` or ``output_shape``.
    """
    rank = len(size)
    mode = call.text("auto_pad", "NOTSET")
    wanted = call.list("output_shape")
    if wanted is None and mode in ("NOTSET", "", "VALID"):
        return full, explicit_pads(call, size, size, strides, strides)
    if wanted is None:
        wanted = tuple(n * s for n, s in zip(size, strides, strict=True))
    if len(wanted) not in (rank, rank + 2):
        raise ShapeMismatch(f"attribute 'output_shape' is {list(wanted)}, needed {rank} numbers")
    full = tuple(max(n, w) for n, w in zip(full, wanted[-rank:], strict=True))
    total = [n - w for n, w in zip(full, wanted[-rank:], strict=True)]
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return full, small + large if mode == "SAME_UPPER" else large + small


def _emit_conv_transpose(node: Node, inputs: Sequence[str], out: Writer) -> str:
    attrs = {k: node.attrs[k] for k in ("strides", "dilations", "pads", "group")}
    windows = _adjoint(node, node.inputs[0].shape)
    rank = len(windows.size)
    extra = tuple(
        n + windows.pads[i] + windows.pads[i + rank] - (windows.out[i] - 1) * windows.strides[i]
        - (windows.kernel[i] - 1) * windows.dilations[i] - 1
        for i, n in enumerate(windows.size)
    )  # fmt: skip
    operands = _operands(node, inputs, out)
    return out.call("ConvTranspose", operands, node.origin, **attrs, output_padding=extra)


OPS = (
    Op("Conv", "linear", _conv, _conv_matrix, emit=_emit_conv),
    Op("ConvTranspose", "linear", _conv_transpose, _conv_transpose_matrix, emit=_emit_conv_transpose),
)
READERS = {"Conv": Reader(_read_conv, 22), "ConvTranspose": Reader(_read_conv_transpose, 22)}
