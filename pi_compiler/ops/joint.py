"""Functions of several elements at once: maxima, softmax, layer normalization, lookups, products of matrices.

Only protocols that compare have all of them (MPC). Under CKKS the importer reads softmax, layer normalization and
products of matrices, and ``passes/forms.py`` writes the first two as sums and products. The meaning is exact until
a pass puts fits into the attributes (``exponential``, ``rectifier``, ``inverse``), which are then what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Protocol, cast

import numpy as np

from pi_compiler.errors import ShapeMismatch, UnsupportedOperator
from pi_compiler.ir.graph import Attr, FloatArray, IntArray, Node, Shape
from pi_compiler.ops import elementwise, linear, shaping
from pi_compiler.ops.convolution import Windows
from pi_compiler.ops.linear import affine, alike
from pi_compiler.ops.masks import of_owner, visible_places
from pi_compiler.ops.op import (
    Arrays,
    Call,
    Op,
    Reader,
    Writer,
    array,
    axes_of,
    axis_of,
    integer,
    ints,
    number,
    optional_array,
)
from pi_compiler.ops.pooling import read_average_pool
from pi_compiler.ops.shaping import MOVES, checked, expand

_FLOAT, _INT64 = 1, 7  # ONNX's element types
HIDDEN, FAR = -1e3, -1e9
"""A score below the first, added by a constant, hides its place from a softmax; the second is what is written."""


class _Function(Protocol):
    def __call__(self, x: FloatArray) -> FloatArray: ...


def _given(node: Node, name: str, default: Callable[[FloatArray], FloatArray]) -> _Function:
    return cast(_Function, node.attrs.get(name, default))


# MaxPool: as AveragePool. ReduceMax: axes, keepdims. Maximum of two, element by element.


def _max_pool(node: Node, arrays: Arrays) -> FloatArray:
    x = arrays[0]
    kernel, strides, dilations, pads = (ints(node, k) for k in ("kernel", "strides", "dilations", "pads"))
    windows = Windows(x.shape[3:], node.shape[2:], kernel, strides, dilations, pads)
    padded = windows.padded(x, -np.inf)
    largest = np.full((len(x), *node.shape), -np.inf)
    for tap in windows.taps_of():
        np.maximum(largest, padded[tap], out=largest)
    return largest


def _read_max_pool(call: Call) -> Node:
    if call.integer("storage_order", 0) or len(call.shapes) > 1:
        raise UnsupportedOperator("MaxPool with indices", hint="its first result only")
    found = read_average_pool(call)
    return Node("MaxPool", found.inputs, found.shape, found.attrs, call.name)


def _read_global_max(call: Call) -> Node:
    x = call.node(0)
    shape = (*x.shape[:2], *(1,) * (len(x.shape) - 2))
    return Node("ReduceMax", (x,), shape, {"axes": tuple(range(2, len(x.shape)))}, call.name)


def _reduce_max(node: Node, arrays: Arrays) -> FloatArray:
    return np.asarray(arrays[0].max(axis=tuple(a + 1 for a in ints(node, "axes")))).reshape(-1, *node.shape)


def _read_reduce_max(call: Call) -> Node:
    x = call.node(0)
    axes = axes_of(call.list("axes", 1) or None, len(x.shape))
    keep = call.integer("keepdims", 1)
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keep or i not in axes)
    return Node("ReduceMax", (x,), shape, {"axes": axes}, call.name)


def _maximum(node: Node, arrays: Arrays) -> FloatArray:
    return np.maximum(arrays[0], arrays[1])


def _read_max(call: Call) -> Node:
    encrypted = [o for o in call.operands if isinstance(o, Node)]
    if len(encrypted) != 2 or len(call.operands) != 2:
        return cast(Node, elementwise.READERS[call.op].read(call))
    operands = alike(encrypted, call.name)
    if call.op == "Max":
        return Node("Maximum", operands, operands[0].shape, {}, call.name)
    flipped = tuple(affine(o, -1.0, 0.0, call.name) for o in operands)
    return affine(Node("Maximum", flipped, operands[0].shape, {}, call.name), -1.0, 0.0, call.name)


# IsLess: 1 where x < y, or x < bound with one operand.


def _less(node: Node, arrays: Arrays) -> FloatArray:
    bound = arrays[1] if len(arrays) > 1 else array(node, "bound")
    return np.asarray(arrays[0] < bound, np.float64)


def _emit_less(node: Node, inputs: Sequence[str], out: Writer) -> str:
    bound = inputs[1] if len(inputs) > 1 else out.constant(array(node, "bound"))
    return out.call("Cast", [out.call("Less", [inputs[0], bound], node.origin)], node.origin, to=_FLOAT)


def read_comparison(call: Call) -> Node:
    """A comparison of values, or of a value with constants."""
    a, b = call.operands[:2]
    greater = call.op.startswith("Greater")
    strict = not call.op.endswith("OrEqual")
    # a > b is b < a; a >= b is not (a < b).
    if greater == strict:
        a, b = b, a
    if isinstance(a, Node) and isinstance(b, Node):
        operands = alike((a, b), call.name)
        bit = Node("IsLess", operands, operands[0].shape, {}, call.name)
    elif isinstance(a, Node):
        bound = np.asarray(b, np.float64)
        x = expand(a, bound.shape, call.name)
        bit = Node("IsLess", (x,), x.shape, {"bound": bound}, call.name)
    else:
        b = cast(Node, b)
        bound = np.asarray(a, np.float64)
        x = expand(b, bound.shape, call.name)
        # c < x is -x < -c.
        bit = Node("IsLess", (affine(x, -1.0, 0.0, call.name),), x.shape, {"bound": -bound}, call.name)
    return bit if strict else affine(bit, -1.0, 1.0, call.name)


def read_where(call: Call) -> Node:
    """A choice by a constant or by an encrypted comparison."""
    condition, yes, no = call.operands[:3]
    shape: Shape = ()
    for operand in (condition, yes, no):
        if operand is not None:
            shape = np.broadcast_shapes(shape, operand.shape)
    if isinstance(condition, Node):
        gap = _difference(yes, no, shape, call)
        picked = elementwise.multiply(expand(condition, shape, call.name), gap, call.name)
        if isinstance(no, Node):
            operands = alike((picked, no), call.name)
            return Node("Add", operands, operands[0].shape, {}, call.name)
        return affine(picked, 1.0, _finite(no), call.name)
    mask = np.broadcast_to(np.asarray(condition) != 0, shape).astype(np.float64)
    parts = []
    shift = np.zeros(shape)
    for value, chosen in ((yes, mask), (no, 1.0 - mask)):
        if isinstance(value, Node):
            parts.append(affine(expand(value, shape, call.name), chosen, 0.0, call.name))
        else:
            shift = shift + chosen * _finite(value)
    total = parts[0] if len(parts) == 1 else Node("Add", tuple(parts), shape, {}, call.name)
    return affine(total, 1.0, shift, call.name)


def _difference(yes: object, no: object, shape: Shape, call: Call) -> Node:
    if isinstance(yes, Node) and isinstance(no, Node):
        operands = alike((expand(yes, shape, call.name), expand(no, shape, call.name)), call.name)
        return Node("Sub", operands, operands[0].shape, {}, call.name)
    if isinstance(yes, Node):
        return affine(expand(yes, shape, call.name), 1.0, -_finite(no), call.name)
    if isinstance(no, Node):
        return affine(expand(no, shape, call.name), -1.0, _finite(yes), call.name)
    raise UnsupportedOperator("a choice between two constants", hint="the comparison times their difference")


def _finite(values: object) -> FloatArray:
    """Constants with infinities as very large numbers: masks are written so."""
    return np.clip(np.asarray(values, np.float64), -1e30, 1e30)


def read_add(call: Call) -> Node:
    """Add, with masks that are written as minus infinity."""
    operands = tuple(o if o is None or isinstance(o, Node) else _finite(o) for o in call.operands)
    return cast(
        Node, linear.READERS["Add"].read(Call(call.op, call.name, operands, call.names, call.attrs, call.shapes))
    )


# InnerSoftmax: axis, mask (0 hides) or none; method and fits once they are chosen. A second operand is a mask that the
# owner of the data has: 1 at the places to look at. InnerArgMax: axis.


def visible(node: Node) -> IntArray | None:
    """Where each place looks along a softmax's axis: at itself, or at the first open place if it is masked."""
    mask = optional_array(node, "mask")
    if mask is None:
        return None
    axis = integer(node, "axis")
    shape = [1] * len(node.shape)
    shape[axis] = node.shape[axis]
    own = np.broadcast_to(np.arange(node.shape[axis]).reshape(shape), node.shape)
    opened = np.broadcast_to(mask, node.shape) > 0.0
    return np.where(opened, own, opened.argmax(axis=axis, keepdims=True))


def softmax_weights(node: Node, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What is normalized, and its sum plus ``extra``."""
    axis, method = integer(node, "axis") + 1, node.attrs.get("method", "max-exp")
    mask = optional_array(node, "mask")
    if (seen := visible(node)) is not None:
        x = np.take_along_axis(x, seen[None], axis)
    if method == "max-exp":
        weights = _given(node, "exponential", np.exp)(x - x.max(axis=axis, keepdims=True))
    elif method == "2quad":
        weights = (x + number(node, "shift")) ** 2
    elif method == "2relu":
        weights = _given(node, "rectifier", lambda v: np.maximum(v, 0.0))(x) + number(node, "shift")
    else:
        weights = (x * number(node, "gain")) ** (2 ** integer(node, "squarings"))
    weights = weights if mask is None else weights * mask
    extra = number(node, "extra") if "extra" in node.attrs else 0.0
    return weights, np.asarray(weights.sum(axis=axis, keepdims=True)) + extra


def _softmax(node: Node, arrays: Arrays) -> FloatArray:
    x = arrays[0]
    if len(arrays) > 1:
        rank = len(node.shape) + 1
        places = arrays[1].reshape(len(arrays[1]), *(1,) * (rank - arrays[1].ndim), *arrays[1].shape[1:])
        x = np.where(places > 0.5, x, FAR)
    weights, total = softmax_weights(node, x)
    return weights * _given(node, "inverse", lambda v: 1.0 / v)(total)


def read_softmax(call: Call) -> Node:
    """A softmax inside the network, with the places that a constant hides."""
    x = call.node(0)
    return softmax(x, axis_of(call.integer("axis", -1), len(x.shape)), call.name)


def softmax(x: Node, axis: int, origin: str) -> Node:
    """Softmax along an axis; very negative constants among the summands of x become a mask.

    Raises:
        UnsupportedOperator: a whole row is masked.
    """
    attrs: dict[str, Attr] = {"axis": axis}
    if x.op == "Affine" and (array(x, "shift") < HIDDEN).any():
        shift = np.broadcast_to(array(x, "shift"), x.shape)
        mask = (shift >= HIDDEN).astype(np.float64)
        if not mask.any(axis=axis).all():
            raise UnsupportedOperator(
                "a softmax of which a whole row is masked", hint="at least one open place per row"
            )
        scale = np.where(mask > 0, np.broadcast_to(array(x, "scale"), x.shape), 1.0)
        scale = np.ones(()) if np.ptp(scale) == 0.0 and scale.flat[0] == 1.0 else scale
        x = affine(x.inputs[0], scale, np.where(mask > 0, shift, 0.0), x.origin)
        attrs["mask"] = mask
    if x.op == "Add" and len(x.inputs) == 2 and any(of_owner(i) for i in x.inputs):
        scores, mask_of_owner = x.inputs if of_owner(x.inputs[1]) else x.inputs[::-1]
        return Node("InnerSoftmax", (scores, visible_places(mask_of_owner, origin)), x.shape, attrs, origin)
    return Node("InnerSoftmax", (x,), x.shape, attrs, origin)


def _emit_softmax(node: Node, inputs: Sequence[str], out: Writer) -> str:
    scores = inputs[0]
    if len(inputs) > 1:
        hiding = out.call(
            "Mul",
            [out.call("Sub", [inputs[1], out.constant(np.ones(()))], node.origin), out.constant(np.asarray(-FAR))],
            node.origin,
        )
        scores = out.call("Add", [scores, hiding], node.origin)
    if (mask := optional_array(node, "mask")) is not None:
        scores = out.call("Add", [scores, out.constant(np.where(mask > 0.0, 0.0, FAR))], node.origin)
    return out.call("Softmax", [scores], node.origin, axis=integer(node, "axis"))


def _arg_max(node: Node, arrays: Arrays) -> FloatArray:
    return np.asarray(arrays[0].argmax(axis=integer(node, "axis") + 1), np.float64).reshape(-1, *node.shape)


def _read_arg_max(call: Call) -> Node:
    x = call.node(0)
    axis = axis_of(call.integer("axis", 0), len(x.shape))
    if call.integer("select_last_index", 0):
        raise UnsupportedOperator("select_last_index", hint="the first of equal values")
    keep = call.integer("keepdims", 1)
    shape = tuple(1 if i == axis else n for i, n in enumerate(x.shape) if keep or i != axis)
    return Node("InnerArgMax", (x,), shape, {"axis": axis}, call.name)


# LayerNorm: axis (the first normalized one), epsilon, scale, bias or none; center is 0 if the mean stays (RMSNorm).


def centers(node: Node) -> bool:
    """Whether the mean is taken off."""
    return "center" not in node.attrs or bool(integer(node, "center"))


def centered(node: Node, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What is left after the mean, and variance plus epsilon."""
    axes = tuple(range(integer(node, "axis") + 1, x.ndim))
    rest = x - x.mean(axis=axes, keepdims=True) if centers(node) else x
    return rest, np.square(rest).mean(axis=axes, keepdims=True) + number(node, "epsilon")


def _layer_norm(node: Node, arrays: Arrays) -> FloatArray:
    rest, variance = centered(node, arrays[0])
    bias = optional_array(node, "bias")
    normal = rest * _given(node, "inverse", lambda v: 1.0 / np.sqrt(v))(variance)
    return normal * array(node, "scale") + (0.0 if bias is None else bias)


def read_layer_norm(call: Call) -> Node:
    """LayerNormalization, and RMSNormalization, which leaves the mean where it is."""
    x, scale = call.node(0), call.weights(1)
    axis = axis_of(call.integer("axis", -1), len(x.shape))
    if prod(x.shape[axis:]) < 2:
        raise ShapeMismatch("layer normalization of single elements")
    attrs: dict[str, Attr] = {"axis": axis, "epsilon": call.number("epsilon", 1e-5), "scale": scale}
    if (bias := call.floats(2)) is not None:
        attrs["bias"] = bias
    if call.op == "RMSNormalization":
        attrs["center"] = 0
    return Node("LayerNorm", (x,), x.shape, attrs, call.name)


def _emit_layer_norm(node: Node, inputs: Sequence[str], out: Writer) -> str:
    """RMSNormalization, which the written operator set lacks, as its parts."""
    origin, axis = node.origin, integer(node, "axis")
    scale, bias = out.constant(array(node, "scale")), optional_array(node, "bias")
    if centers(node):
        rest = [] if bias is None else [out.constant(bias)]
        epsilon = number(node, "epsilon")
        return out.call("LayerNormalization", [inputs[0], scale, *rest], origin, axis=axis, epsilon=epsilon)
    axes = out.constant(np.arange(axis, len(node.shape)))
    squares = out.call("ReduceMean", [out.call("Mul", [inputs[0]] * 2, origin), axes], origin)
    root = out.call("Sqrt", [out.call("Add", [squares, out.constant(array(node, "epsilon"))], origin)], origin)
    normal = out.call("Mul", [out.call("Div", [inputs[0], root], origin), scale], origin)
    return normal if bias is None else out.call("Add", [normal, out.constant(bias)], origin)


# Dot: the product of two matrices of encrypted values. Embedding: rows of a table by number.


def _dot(node: Node, arrays: Arrays) -> FloatArray:
    rank = len(node.shape) + 1
    a, b = (v.reshape(len(v), *(1,) * (rank - v.ndim), *v.shape[1:]) for v in arrays)
    return np.asarray(a @ b)


def read_matmul(call: Call) -> Node:
    """A product with a constant, or of two encrypted matrices."""
    a, b = call.operands[:2]
    if not (isinstance(a, Node) and isinstance(b, Node)):
        return cast(Node, linear.READERS[call.op].read(call))
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise UnsupportedOperator("the product of an encrypted vector", hint="a matrix with one row")
    if a.shape[-1] != b.shape[-2]:
        raise ShapeMismatch(f"matrices of shapes {list(a.shape)} and {list(b.shape)} do not multiply")
    return dot(a, b, call.name)


def dot(a: Node, b: Node, origin: str) -> Node:
    """The product of two stacks of encrypted matrices."""
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return Node("Dot", (a, b), checked((*stack, a.shape[-2], b.shape[-1])), {}, origin)


def _emit_dot(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("MatMul", inputs, node.origin)


def _embedding(node: Node, arrays: Arrays) -> FloatArray:
    return array(node, "table")[np.rint(arrays[0]).astype(np.int64)]


def read_gather(call: Call) -> Node:
    """Elements at constant places, or rows of a constant table at the places that the model's input names."""
    table, numbers = call.operands[:2]
    if not isinstance(numbers, Node):
        return cast(Node, shaping.READERS["Gather"].read(call))
    source = numbers
    while source.op in MOVES:
        source = source.inputs[0]
    if isinstance(table, Node) or table is None or table.ndim != 2 or call.integer("axis", 0) or source.op != "Input":
        raise UnsupportedOperator(
            "a choice of elements by an encrypted number", hint="a lookup of the model's own input in a constant table"
        )
    attrs: dict[str, Attr] = {"table": call.weights(0)}
    return Node("Embedding", (numbers,), (*numbers.shape, table.shape[1]), attrs, call.name)


def _emit_embedding(node: Node, inputs: Sequence[str], out: Writer) -> str:
    numbers = out.call("Cast", [inputs[0]], node.origin, to=_INT64)
    return out.call("Gather", [out.constant(array(node, "table")), numbers], node.origin)


OPS = (
    Op("MaxPool", "joint", _max_pool),
    Op("ReduceMax", "joint", _reduce_max),
    Op("Maximum", "joint", _maximum),
    Op("IsLess", "joint", _less, emit=_emit_less),
    Op("InnerSoftmax", "joint", _softmax, emit=_emit_softmax),
    Op("InnerArgMax", "joint", _arg_max),
    Op("LayerNorm", "joint", _layer_norm, emit=_emit_layer_norm),
    Op("Dot", "joint", _dot, emit=_emit_dot),
    Op("Embedding", "joint", _embedding, emit=_emit_embedding),
)
MPC_READERS = {
    "MaxPool": Reader(_read_max_pool, 22),
    "GlobalMaxPool": Reader(_read_global_max, 22),
    "ReduceMax": Reader(_read_reduce_max, 20),
    "Max": Reader(_read_max, 13, infinite=True),
    "Min": Reader(_read_max, 13, infinite=True),
    "Greater": Reader(read_comparison, 16),
    "GreaterOrEqual": Reader(read_comparison, 16),
    "Less": Reader(read_comparison, 16),
    "LessOrEqual": Reader(read_comparison, 16),
    "Where": Reader(read_where, 16, infinite=True),
    "ArgMax": Reader(_read_arg_max, 13),
}
"""Readers that take precedence under MPC."""
