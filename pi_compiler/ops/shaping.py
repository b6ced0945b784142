"""Data movement: every element of the result is an element of an operand, or a constant.

Seven canonical operators (Reshape, Transpose, Slice, Gather, Concat, Pad, Expand) express all of
ONNX's; the readers of the others compose them. Their matrices follow from their meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from pi_compiler.errors import InternalError, ModelError, ShapeMismatch, UnsupportedOperator
from pi_compiler.ir.graph import FloatArray, IntArray, Node, Shape
from pi_compiler.ops.op import (
    Arrays,
    Call,
    Constant,
    Op,
    Reader,
    Writer,
    axes_of,
    axis_of,
    integer,
    ints,
    number,
    selection,
)

MOVES = frozenset({"Reshape", "Transpose", "Slice", "Gather", "Expand"})
"""Operators whose result holds elements of their one operand and nothing else."""
_FLOATS = frozenset({1, 10, 11, 16})  # ONNX element types float, float16, double, bfloat16
_LIMIT = 1 << 28  # elements of a tensor: 2 GB in float64


def checked(shape: Shape) -> Shape:
    """The shape, if a tensor of it can be worked with.

    Raises:
        ModelError: it is empty or has more than 2^28 elements.
    """
    if min(shape, default=1) < 1:
        raise ShapeMismatch(f"a tensor of shape {list(shape)} is empty")
    if prod(shape) > _LIMIT:
        raise ModelError(f"a tensor of shape {list(shape)} has more than 2^28 elements")
    return shape


# Reshape: to node.shape.


def _reshape(node: Node, arrays: Arrays) -> FloatArray:
    return arrays[0].reshape(len(arrays[0]), *node.shape)


def reshape(x: Node, shape: Shape, origin: str) -> Node:
    """The elements of x in another shape; x itself if it has that shape."""
    if shape == x.shape:
        return x
    if prod(shape) != x.size:
        raise ShapeMismatch(f"{list(x.shape)} cannot be reshaped to {list(shape)}")
    return Node("Reshape", (x,), shape, {}, origin)


def _read_reshape(call: Call) -> Node:
    call.constant(1)
    return reshape(call.node(0), call.shape(), call.name)


def _read_flatten(call: Call) -> Node:
    x, axis = call.node(0), call.integer("axis", 1)
    if not -len(x.shape) <= axis <= len(x.shape):
        raise ShapeMismatch(f"axis {axis} of a tensor with {len(x.shape)} dimensions")
    axis = axis if axis >= 0 else axis + len(x.shape)
    return reshape(x, (prod(x.shape[:axis]), prod(x.shape[axis:])), call.name)


def _read_squeeze(call: Call) -> Node:
    x, axes = call.node(0), call.list("axes", 1)
    dropped = {i for i, n in enumerate(x.shape) if n == 1} if axes is None else set(axes_of(axes, len(x.shape)))
    if any(x.shape[i] != 1 for i in dropped):
        raise ShapeMismatch(f"axes {sorted(dropped)} of {list(x.shape)} are not all 1")
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in dropped), call.name)


def _read_unsqueeze(call: Call) -> Node:
    x, axes = call.node(0), call.list("axes", 1) or ()
    rank = len(x.shape) + len(axes)
    added, rest = set(axes_of(axes, rank)), iter(x.shape)
    return reshape(x, tuple(1 if i in added else next(rest) for i in range(rank)), call.name)


def _emit_reshape(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("Reshape", [inputs[0], out.constant(np.array(node.shape, np.int64))], node.origin)


# Transpose: perm.


def _transpose(node: Node, arrays: Arrays) -> FloatArray:
    return arrays[0].transpose(0, *(a + 1 for a in ints(node, "perm")))


def transpose(x: Node, perm: Sequence[int], origin: str) -> Node:
    """The tensor x with its dimensions in another order."""
    order = tuple(perm)
    if sorted(order) != list(range(len(x.shape))):
        raise ShapeMismatch(f"perm {list(order)} of a tensor with {len(x.shape)} dimensions")
    if order == tuple(range(len(order))):
        return x
    return Node("Transpose", (x,), tuple(x.shape[a] for a in order), {"perm": order}, origin)


def _read_transpose(call: Call) -> Node:
    x = call.node(0)
    return transpose(x, call.list("perm") or tuple(reversed(range(len(x.shape)))), call.name)


def _emit_transpose(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("Transpose", inputs, node.origin, perm=node.attrs["perm"])


# Slice: per axis a start and a step; node.shape says how many.


def _ranges(node: Node) -> list[tuple[int, int | None, int]]:
    starts, steps = ints(node, "starts"), ints(node, "steps")
    stops = (a + n * s for a, n, s in zip(starts, node.shape, steps, strict=True))
    return [(a, e if e >= 0 else None, s) for a, e, s in zip(starts, stops, steps, strict=True)]


def _slice(node: Node, arrays: Arrays) -> FloatArray:
    return arrays[0][(slice(None), *(slice(*r) for r in _ranges(node)))]


def slices(x: Node, ranges: Sequence[range], origin: str) -> Node:
    """The elements of x at the product of the ranges, one per axis."""
    shape = checked(tuple(len(r) for r in ranges))
    if all(r == range(n) for r, n in zip(ranges, x.shape, strict=True)):
        return x
    attrs = {"starts": tuple(r.start for r in ranges), "steps": tuple(r.step for r in ranges)}
    return Node("Slice", (x,), shape, attrs, origin)


def _read_slice(call: Call) -> Node:
    x = call.node(0)
    starts, ends = call.list("starts", 1), call.list("ends", 2)
    if starts is None or ends is None:
        raise ShapeMismatch("starts or ends are missing")
    axes = call.list("axes", 3) or tuple(range(len(starts)))
    steps = call.list("steps", 4) or (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ShapeMismatch(f"starts {starts}, ends {ends}, axes {axes} and steps {steps} do not belong together")
    ranges = [range(n) for n in x.shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(axis, len(x.shape))
        ranges[axis] = range(x.shape[axis])[start:end:step]
    return slices(x, ranges, call.name)


def _read_split(call: Call) -> tuple[Node, ...]:
    x = call.node(0)
    axis = axis_of(call.integer("axis", 0), len(x.shape))
    sizes = call.list("split", 1)
    if sizes is None:
        count = call.integer("num_outputs", len(call.shapes))
        part = -(-x.shape[axis] // max(count, 1))
        sizes = tuple(max(0, min(part, x.shape[axis] - i * part)) for i in range(count))
    if sum(sizes) != x.shape[axis] or len(sizes) < len(call.shapes):
        raise ShapeMismatch(f"split {list(sizes)} of {x.shape[axis]} elements along axis {axis}")
    parts: list[Node] = []
    start = 0
    for size in sizes:
        whole = [range(n) for n in x.shape]
        whole[axis] = range(start, start + size)
        parts.append(slices(x, whole, call.name))
        start += size
    return tuple(parts)


def _emit_slice(node: Node, inputs: Sequence[str], out: Writer) -> str:
    before_first = -(2**62)
    ranges = _ranges(node)
    columns: list[list[int]] = [
        [a for a, _, _ in ranges],
        [before_first if e is None else e for _, e, _ in ranges],
        list(range(len(ranges))),
        [s for _, _, s in ranges],
    ]
    return out.call("Slice", [inputs[0], *(out.constant(np.array(c, np.int64)) for c in columns)], node.origin)


# Gather: axis, indices (any rank).


def _gather(node: Node, arrays: Arrays) -> FloatArray:
    return np.take(arrays[0], np.asarray(node.attrs["indices"]), axis=integer(node, "axis") + 1)


def gather(x: Node, indices: IntArray, axis: int, origin: str) -> Node:
    """The slices of x along an axis at the indices, which may count from the end."""
    size = x.shape[axis]
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise ShapeMismatch(f"indices reach from {indices.min()} to {indices.max()} along an axis of {size}")
    indices = np.where(indices < 0, indices + size, indices)
    if indices.ndim == 1 and np.array_equal(indices, np.arange(size)):
        return x
    shape = checked((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    return Node("Gather", (x,), shape, {"axis": axis, "indices": indices}, origin)


def _whole(values: Constant | None, what: str) -> IntArray:
    if values is None or values.dtype.kind not in "iu":
        raise ShapeMismatch(f"{what} are not integers")
    return np.asarray(values, dtype=np.int64)


def _read_gather(call: Call) -> Node:
    x = call.node(0)
    axis = axis_of(call.integer("axis", 0), len(x.shape))
    return gather(x, _whole(call.constant(1), "indices"), axis, call.name)


def _emit_gather(node: Node, inputs: Sequence[str], out: Writer) -> str:
    indices = out.constant(np.asarray(node.attrs["indices"], dtype=np.int64))
    return out.call("Gather", [inputs[0], indices], node.origin, axis=integer(node, "axis"))


def _read_tile(call: Call) -> Node:
    x, repeats = call.node(0), _whole(call.constant(1), "repeats").reshape(-1)
    if len(repeats) != len(x.shape):
        raise ShapeMismatch(f"{len(repeats)} repeats for {len(x.shape)} dimensions")
    checked(tuple(n * int(r) for n, r in zip(x.shape, repeats, strict=True)))
    for axis, times in enumerate(repeats):
        x = gather(x, np.tile(np.arange(x.shape[axis]), int(times)), axis, call.name)
    return x


# Resize: nearest only; along each axis a Gather.

_ROUND: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "round_prefer_floor": lambda v: np.ceil(v - 0.5),
    "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _source(mode: str, out: int, size: int, scale: float) -> FloatArray:
    """Where along an axis each of ``out`` elements lies in the original of ``size``."""
    at = np.arange(out, dtype=np.float64)
    match mode:
        case "half_pixel":
            return np.asarray((at + 0.5) / scale - 0.5)
        case "half_pixel_symmetric":
            moved = size / 2 * (1 - out / (scale * size))
            return np.asarray(moved + (at + 0.5) / scale - 0.5)
        case "pytorch_half_pixel":
            return np.asarray((at + 0.5) / scale - 0.5) if out > 1 else np.zeros(1)
        case "align_corners":
            return np.asarray(at * (size - 1) / (out - 1)) if out > 1 else np.zeros(1)
        case "asymmetric":
            return np.asarray(at / scale)
        case _:
            raise UnsupportedOperator(f"coordinate_transformation_mode {mode!r}", hint="half_pixel or asymmetric")


def _read_resize(call: Call) -> Node:
    x, mode = call.node(0), call.text("mode", "nearest")
    if mode != "nearest":
        raise UnsupportedOperator(f"mode {mode!r} comes later", hint="mode 'nearest'")
    rounding = call.text("nearest_mode", "round_prefer_floor")
    if rounding not in _ROUND:
        raise ShapeMismatch(f"attribute 'nearest_mode' is {rounding!r}")
    where = call.text("coordinate_transformation_mode", "half_pixel")
    axes = [axis_of(a, len(x.shape)) for a in call.list("axes") or range(len(x.shape))]
    scales, sizes = call.floats(2), call.constant(3)
    shape = checked(call.shape())
    for place, axis in enumerate(axes):
        size, out = x.shape[axis], shape[axis]
        given = scales is not None and scales.size == len(axes) and (sizes is None or not sizes.size)
        scale = float(scales[place]) if given and scales is not None else out / size
        at = _ROUND[rounding](_source(where, out, size, scale))
        x = gather(x, np.clip(at, 0, size - 1).astype(np.int64), axis, call.name)
    return x


# Concat: axis, parts: None where the next operand goes, an array where a constant does.


def _parts(node: Node) -> list[FloatArray | None]:
    given = node.attrs["parts"]
    if not isinstance(given, tuple):
        raise InternalError(f"attribute 'parts' of {node!r} is not a tuple")
    return [None if part is None else np.asarray(part, dtype=np.float64) for part in given]


def _concat(node: Node, arrays: Arrays) -> FloatArray:
    operands, batch = iter(arrays), len(arrays[0])
    parts: list[FloatArray] = []
    for part in _parts(node):
        parts.append(next(operands) if part is None else np.broadcast_to(part, (batch, *part.shape)))
    return np.concatenate(parts, axis=integer(node, "axis") + 1)


def _read_concat(call: Call) -> Node:
    shapes = [o.shape for o in call.operands if o is not None]
    axis = axis_of(call.integer("axis", 0), len(shapes[0]))
    if len({(*s[:axis], *s[axis + 1 :]) for s in shapes}) != 1:
        raise ShapeMismatch(f"shapes {[list(s) for s in shapes]} do not join along axis {axis}")
    total = sum(s[axis] for s in shapes)
    parts = tuple(
        None if isinstance(o, Node) else np.asarray(o, np.float64)
        for o in call.operands
        if o is not None and 0 not in o.shape
    )
    encrypted = tuple(o for o in call.operands if isinstance(o, Node))
    if len(parts) == 1:
        return encrypted[0]
    shape = (*shapes[0][:axis], total, *shapes[0][axis + 1 :])
    return Node("Concat", encrypted, checked(shape), {"axis": axis, "parts": parts}, call.name)


def _emit_concat(node: Node, inputs: Sequence[str], out: Writer) -> str:
    operands = iter(inputs)
    names = [next(operands) if part is None else out.constant(part) for part in _parts(node)]
    return out.call("Concat", names, node.origin, axis=integer(node, "axis"))


# Pad: pads in front and behind, filled with value.


def _pad(node: Node, arrays: Arrays) -> FloatArray:
    pads, rank = ints(node, "pads"), len(node.shape)
    widths = [(0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    return np.pad(arrays[0], widths, constant_values=number(node, "value"))


def pad(x: Node, before: Sequence[int], after: Sequence[int], origin: str, value: float = 0.0) -> Node:
    """The tensor x with so many constant elements in front and behind, per axis."""
    pads = (*before, *after)
    if not any(pads):
        return x
    shape = tuple(b + n + a for b, n, a in zip(before, x.shape, after, strict=True))
    return Node("Pad", (x,), checked(shape), {"pads": pads, "value": value}, origin)


def _read_pad(call: Call) -> Node:
    x, mode = call.node(0), call.text("mode", "constant")
    rank = len(x.shape)
    given = call.list("pads", 1) or ()
    chosen = call.list("axes", 3)
    axes = list(range(rank)) if chosen is None else [axis_of(a, rank) for a in chosen]
    if len(given) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise ShapeMismatch(f"{len(given)} pads for {len(axes)} axes")
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = given[place], given[place + len(axes)]
    checked(tuple(b + n + a for b, n, a in zip(before, x.shape, after, strict=True)))
    if mode != "constant":
        return _pad_from_inside(x, before, after, mode, call.name)
    fill = call.floats(2)
    value = call.number("value", 0.0) if fill is None or not fill.size else float(fill.reshape(-1)[0])
    # Negative numbers cut off.
    kept = [range(max(0, -b), n - max(0, -a)) for b, n, a in zip(before, x.shape, after, strict=True)]
    x = slices(x, kept, call.name)
    return pad(x, [max(0, b) for b in before], [max(0, a) for a in after], call.name, value)


def _pad_from_inside(x: Node, before: list[int], after: list[int], mode: str, origin: str) -> Node:
    """Padding that repeats elements of x: edge, reflect or wrap."""
    if mode not in ("edge", "reflect", "wrap"):
        raise ShapeMismatch(f"attribute 'mode' is {mode!r}")
    for axis, (b, a) in enumerate(zip(before, after, strict=True)):
        size = x.shape[axis]
        at = np.arange(-b, size + a)
        if mode == "edge":
            at = np.clip(at, 0, size - 1)
        elif mode == "wrap":
            at = at % size
        else:
            turn = max(1, 2 * (size - 1))
            at = np.minimum(at % turn, turn - at % turn) if size > 1 else np.zeros_like(at)
        x = gather(x, at, axis, origin)
    return x


def _emit_pad(node: Node, inputs: Sequence[str], out: Writer) -> str:
    pads = out.constant(np.array(ints(node, "pads"), np.int64))
    value = out.constant(np.array(number(node, "value"), np.float64))
    return out.call("Pad", [inputs[0], pads, value], node.origin, mode="constant")


# Expand: broadcast to node.shape.


def _expand(node: Node, arrays: Arrays) -> FloatArray:
    x = arrays[0]
    ones = (1,) * (len(node.shape) - x.ndim + 1)
    return np.broadcast_to(x.reshape(len(x), *ones, *x.shape[1:]), (len(x), *node.shape))


def expand(x: Node, shape: Shape, origin: str) -> Node:
    """The tensor x broadcast against a shape, by numpy's rules."""
    try:
        wide = np.broadcast_shapes(x.shape, shape)
    except ValueError as error:
        raise ShapeMismatch(f"{list(x.shape)} and {list(shape)} do not broadcast") from error
    return x if wide == x.shape else Node("Expand", (x,), checked(wide), {}, origin)


def _read_expand(call: Call) -> Node:
    shape = _whole(call.constant(1), "shape").reshape(-1)
    return expand(call.node(0), tuple(int(n) for n in shape), call.name)


def _emit_expand(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("Expand", [inputs[0], out.constant(np.array(node.shape, np.int64))], node.origin)


# DepthToSpace and SpaceToDepth: a Transpose between two Reshapes.


def _read_depth_to_space(call: Call) -> Node:
    x, block, mode = call.node(0), call.integer("blocksize", 0), call.text("mode", "DCR")
    if len(x.shape) != 4 or block < 1 or x.shape[1] % block**2 or mode not in ("DCR", "CRD"):
        raise ShapeMismatch(f"blocksize {block}, mode {mode!r} on a tensor of shape {list(x.shape)}")
    n, c, h, w = x.shape
    depth = c // block**2
    split, perm = (
        ((block, block, depth), (0, 3, 4, 1, 5, 2)) if mode == "DCR" else ((depth, block, block), (0, 1, 4, 2, 5, 3))
    )
    parts = transpose(reshape(x, (n, *split, h, w), call.name), perm, call.name)
    return reshape(parts, (n, depth, h * block, w * block), call.name)


def _read_space_to_depth(call: Call) -> Node:
    x, block, mode = call.node(0), call.integer("blocksize", 0), call.text("mode", "DCR")
    fits = len(x.shape) == 4 and block > 0 and not (x.shape[2] % block or x.shape[3] % block)
    if not fits or mode not in ("DCR", "CRD"):
        raise ShapeMismatch(f"blocksize {block}, mode {mode!r} on a tensor of shape {list(x.shape)}")
    n, c, h, w = x.shape
    parts = reshape(x, (n, c, h // block, block, w // block, block), call.name)
    moved = transpose(parts, (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4), call.name)
    return reshape(moved, (n, c * block**2, h // block, w // block), call.name)


# Nothing happens to the values.


def _read_identity(call: Call) -> Node:
    return call.node(0)


def _read_dropout(call: Call) -> Node:
    training = call.constant(2)
    if training is not None and training.size and bool(training.reshape(-1)[0]):
        raise UnsupportedOperator("training_mode is on", hint="export the model in evaluation mode")
    return call.node(0)


def _read_cast(call: Call) -> Node:
    if call.integer("to", 1) not in _FLOATS:
        raise UnsupportedOperator("casts encrypted values to integers or booleans", hint="remove the cast")
    return call.node(0)


def _read_cast_like(call: Call) -> Node:
    like = call.operands[1]
    if not isinstance(like, Node) and like is not None and like.dtype.kind in "iub":
        raise UnsupportedOperator("casts encrypted values to integers or booleans", hint="remove the cast")
    return call.node(0)


EXPAND = Op("Expand", "linear", _expand, selection(_expand), emit=_emit_expand)
OPS = (
    Op("Reshape", "linear", _reshape, selection(_reshape), emit=_emit_reshape),
    Op("Transpose", "linear", _transpose, selection(_transpose), emit=_emit_transpose),
    Op("Slice", "linear", _slice, selection(_slice), emit=_emit_slice),
    Op("Gather", "linear", _gather, selection(_gather), emit=_emit_gather),
    Op("Concat", "linear", _concat, selection(_concat), emit=_emit_concat),
    Op("Pad", "linear", _pad, selection(_pad), emit=_emit_pad),
    EXPAND,
)
READERS = {
    "Reshape": Reader(_read_reshape, 25),
    "Flatten": Reader(_read_flatten, 25),
    "Squeeze": Reader(_read_squeeze, 25),
    "Unsqueeze": Reader(_read_unsqueeze, 25),
    "Transpose": Reader(_read_transpose, 25),
    "Slice": Reader(_read_slice, 13),
    "Split": Reader(_read_split, 18),
    "Gather": Reader(_read_gather, 13),
    "Tile": Reader(_read_tile, 13),
    "Resize": Reader(_read_resize, 19, infinite=True),
    "Concat": Reader(_read_concat, 13),
    "Pad": Reader(_read_pad, 25),
    "Expand": Reader(_read_expand, 13),
    "DepthToSpace": Reader(_read_depth_to_space, 28),
    "SpaceToDepth": Reader(_read_space_to_depth, 28),
    "Identity": Reader(_read_identity, 25),
    "Dropout": Reader(_read_dropout, 22),
    "Cast": Reader(_read_cast, 28),
    "CastLike": Reader(_read_cast_like, 25),
}
