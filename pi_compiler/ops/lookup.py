"""Lookups by number: rows of a constant table, such as the vectors of a text's words.

Under CKKS the client looks up before it encrypts (``passes/lookup.py``); under MPC a number is shared as a one-hot row.
What hides a text's padding from a softmax is looked up as well, which is why it is recognized here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from pi_compiler.errors import UnsupportedOperator
from pi_compiler.ir.graph import FloatArray, Node
from pi_compiler.ir.lookups import looked_up
from pi_compiler.ops import shaping
from pi_compiler.ops.joint import read_softmax
from pi_compiler.ops.op import Arrays, Call, Op, Reader, Writer, array

HIDDEN = -20.0
"""A looked-up score below it hides its place from a softmax: the weight would be 2e-9 of an open one's."""
_MOVED = ("Reshape", "Transpose", "Expand", "Gather", "Slice")

# Embedding: table. The operand is an input, which holds numbers of rows.


def _embedding(node: Node, arrays: Arrays) -> FloatArray:
    return looked_up(array(node, "table"), arrays[0], node.inputs[0].origin)


def _emit_embedding(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("Gather", [out.constant(array(node, "table")), inputs[0]], node.origin, axis=0)


def _read_gather(call: Call) -> Node:
    table, numbers = call.operands[:2]
    if not isinstance(numbers, Node):
        return cast(Node, shaping.READERS["Gather"].read(call))
    if isinstance(table, Node) or numbers.op != "Input":
        raise UnsupportedOperator(
            "a choice of elements by an encrypted number", hint="a lookup of the model's own input in a constant table"
        )
    values = call.weights(0)
    if values.ndim != 2 or call.integer("axis", 0):
        raise UnsupportedOperator(
            f"a lookup along axis {call.integer('axis', 0)} of a table of {values.ndim} dimensions",
            hint="the rows of a matrix",
        )
    return Node("Embedding", (numbers,), (*numbers.shape, values.shape[1]), {"table": values}, call.name)


def _read_softmax(call: Call) -> Node:
    """A softmax; looked-up scores that hide places become its second operand, which is 1 where a place is open."""
    x = call.node(0)
    if x.op == "Add" and len(x.inputs) == 2:
        for scores, hiding in (x.inputs, x.inputs[::-1]):
            if (open_ := _open_places(hiding)) is not None:
                made = read_softmax(replace(call, operands=(scores, *call.operands[1:])))
                return replace(made, inputs=(*made.inputs, open_))
    return read_softmax(call)


def _open_places(x: Node) -> Node | None:
    """1 where looked-up scores of 0 stand, 0 where they hide, if that is all they do."""
    moves: list[Callable[[Node], Node]] = []
    scale, shift = 1.0, 0.0
    while x.op != "Embedding":
        if x.op == "Affine" and array(x, "scale").size == array(x, "shift").size == 1:
            shift += scale * float(array(x, "shift").reshape(-1)[0])
            scale *= float(array(x, "scale").reshape(-1)[0])
        elif x.op in _MOVED:
            moves.append(lambda operand, node=x: replace(node, inputs=(operand,)))  # type: ignore[misc]
        else:
            return None
        x = x.inputs[0]
    scores = scale * array(x, "table") + shift
    hidden = scores < HIDDEN
    if not hidden.any() or (scores[~hidden] != 0.0).any():
        return None
    found = replace(x, attrs={"table": np.where(hidden, 0.0, 1.0)})
    for move in reversed(moves):
        found = move(found)
    return found


OPS = (Op("Embedding", "joint", _embedding, emit=_emit_embedding),)
READERS = {"Gather": Reader(_read_gather, 13), "Softmax": Reader(_read_softmax, 13)}
MPC_READERS = {"Gather": Reader(_read_gather, 13), "Softmax": Reader(read_softmax, 13)}
"""Under MPC what hides stays a summand: an exponential of it is small enough."""
