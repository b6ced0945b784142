"""Attention masks that the model takes as an input: zeros and ones, known to the owner of the data.

Exporters add a mask to the scores as zero and a very negative number, made from zeros and ones by subtractions, casts
to booleans and choices. All of that depends on the owner's whole numbers alone, so the owner computes it
(``ops/front.py``); what the network gets is 1 at every place to look at and 0 at the others.
"""

from __future__ import annotations

from math import prod
from typing import Final, cast

import numpy as np

from pi_compiler.errors import UnsupportedOperator
from pi_compiler.ir.graph import Node
from pi_compiler.ops import shaping
from pi_compiler.ops.linear import affine
from pi_compiler.ops.op import Call, Reader, array, same
from pi_compiler.ops.shaping import slices

_BOOL, _WHOLE = 9, frozenset({6, 7, 9})  # ONNX's element types bool, int32, int64
ALONG = frozenset(
    {
        "Add",
        "Sub",
        "Mul",
        "Square",
        "Affine",
        "Expand",
        "Reshape",
        "Transpose",
        "Slice",
        "Gather",
        "LayerNorm",
        "IsLess",
        "ReduceSum",
        "Reciprocal",
    }
)
"""What the owner of whole numbers computes of them before encryption; and lookups."""
CLOSED: Final = -20.0
"""A summand below it hides its place from a softmax: the weight is 2e-9 of an open one's with the same score."""


def is_whole(node: Node) -> bool:
    """Whether a node is an input of whole numbers."""
    return node.op == "Input" and bool(node.attrs.get("whole", False))


def of_owner(node: Node) -> bool:
    """Whether a value follows from whole numbers of the model's input, without a matrix or a lookup.

    A lookup of two values, which says whether a token is padding, may be on the way.
    """
    seen: dict[int, bool] = {}

    def found(n: Node) -> bool:
        if id(n) not in seen:
            along = n.op in ALONG or (n.op == "Embedding" and len(np.unique(array(n, "table"))) <= 2)
            seen[id(n)] = is_whole(n) or (along and bool(n.inputs) and all(found(i) for i in n.inputs))
        return seen[id(n)]

    return found(node)


def nonzero(x: Node, origin: str) -> Node:
    """1 where a whole number of the owner is not zero, else 0."""
    negative = affine(same(x, "Square", origin), -1.0, 0.0, origin)
    return same(negative, "IsLess", origin, bound=np.asarray(-0.25))


def visible_places(mask: Node, origin: str) -> Node:
    """1 where a summand of scores is zero, 0 where it hides; one element along axes where it repeats.

    Whether it is one or the other everywhere is not known here (``front.strange_masks``).
    """
    repeated = _repeated(mask)
    ranges = [range(1) if i in repeated else range(n) for i, n in enumerate(mask.shape)]
    hidden = same(slices(mask, ranges, origin), "IsLess", origin, bound=np.asarray(CLOSED))
    return affine(hidden, -1.0, 1.0, origin)


def summand(places: Node) -> Node | None:
    """What ``visible_places`` was made of."""
    hidden = places.inputs[0] if places.op == "Affine" else places
    return hidden.inputs[0] if hidden.op == "IsLess" and hidden.inputs else None


def _repeated(node: Node) -> frozenset[int]:
    """Axes along which a value is the same by construction."""
    rank, ones = len(node.shape), frozenset(i for i, n in enumerate(node.shape) if n == 1)
    match node.op:
        case "Expand":
            inner = node.inputs[0]
            front = rank - len(inner.shape)
            grown = {i for i in range(rank) if i < front or inner.shape[i - front] != node.shape[i]}
            return frozenset(grown) | frozenset(i + front for i in _repeated(inner)) | ones
        case "Reshape":
            return _reshaped(node) | ones
        case "Affine" | "IsLess":
            given = [np.asarray(v) for k, v in node.attrs.items() if k in ("scale", "shift", "bound")]
            varied = {rank - v.ndim + i for v in given for i, n in enumerate(v.shape) if n > 1}
            return (_repeated(node.inputs[0]) - varied) | ones
        case "Add" | "Sub" | "Mul" | "Square":
            return frozenset.intersection(*(_repeated(i) for i in node.inputs)) | ones
    return ones


def _reshaped(node: Node) -> frozenset[int]:
    """Of a reshape that only adds or drops axes of one element."""
    inner = node.inputs[0]
    old = [i for i, n in enumerate(inner.shape) if n != 1]
    new = [i for i, n in enumerate(node.shape) if n != 1]
    if [inner.shape[i] for i in old] != [node.shape[i] for i in new] or prod(inner.shape) != node.size:
        return frozenset()
    repeated = _repeated(inner)
    return frozenset(n for o, n in zip(old, new, strict=True) if o in repeated)


def _read_logic(call: Call) -> Node:
    """Not, And, Or of what the owner knows; zeros and ones."""
    operands = [o for o in call.operands if o is not None]
    if not all(of_owner(o) for o in operands if isinstance(o, Node)):
        raise UnsupportedOperator("logic on encrypted values", hint="logic on the model's own whole-number inputs")
    if call.op == "Not":
        return affine(call.node(0), -1.0, 1.0, call.name)
    a, b = call.node(0) if isinstance(operands[0], Node) else call.node(1), operands
    other = b[1] if b[0] is a else b[0]
    if isinstance(other, Node):
        raise UnsupportedOperator(f"{call.op} of two inputs", hint="one mask")
    truth = (np.asarray(other) != 0).astype(np.float64)
    # a or 1 is 1, a or 0 is a.
    return affine(a, truth, 0.0, call.name) if call.op == "And" else affine(a, 1.0 - truth, truth, call.name)


def _read_equal(call: Call) -> Node:
    """Which of the owner's own numbers are equal to a constant: models that make their mask of token numbers."""
    nodes = [o for o in call.operands if isinstance(o, Node)]
    constants = [o for o in call.operands if o is not None and not isinstance(o, Node)]
    if len(nodes) != 1 or len(constants) != 1 or not is_whole(_unmoved(nodes[0])):
        raise UnsupportedOperator(
            "comparisons of encrypted values come later", hint="a comparison of a whole-number input with a constant"
        )
    ((x,), (other,)) = nodes, constants
    apart = affine(x, 1.0, -np.asarray(other, np.float64), call.name)
    return affine(nonzero(apart, call.name), -1.0, 1.0, call.name)


def _unmoved(node: Node) -> Node:
    """What was moved, reshaped or repeated."""
    while node.op in shaping.MOVES:
        node = node.inputs[0]
    return node


def _read_cast(call: Call) -> Node:
    """To floats, or of whole numbers of the owner to other whole numbers and to zeros and ones."""
    to, x = call.integer("to", 1), call.node(0)
    if to in _WHOLE and of_owner(x):
        return nonzero(x, call.name) if to == _BOOL and not _is_bit(x) else x
    return cast(Node, shaping.READERS["Cast"].read(call))


def _is_bit(node: Node) -> bool:
    return node.op == "IsLess"


READERS = {
    "Cast": Reader(_read_cast, 28),
    "Equal": Reader(_read_equal, 19),
    **dict.fromkeys(("Not", "And", "Or"), Reader(_read_logic, 7)),
}
