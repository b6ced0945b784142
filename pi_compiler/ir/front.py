"""The front of a network: what the owner of the data computes in clear before anything is encrypted.

A front is a ``Graph`` whose inputs are the model's own (token numbers) and whose outputs are what gets encrypted
(hidden states). It travels with a compiled model, so it can be written as JSON and arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi_compiler.ir.graph import Attr, Graph, Node, Shape

Arrays = dict[str, NDArray[Any]]


def input_shapes(front: Graph) -> dict[str, Shape]:
    """Shape per input of the model."""
    return {n.origin: n.shape for n in front.inputs}


def described(front: Graph) -> tuple[dict[str, Any], Arrays]:
    """A front as JSON values and arrays ``0``, ``1`` ...: the inverse of ``restored``."""
    numbers: dict[int, int] = {}
    arrays: Arrays = {}
    rows = []
    for node in front.nodes():
        numbers[id(node)] = len(numbers)
        attrs = {name: _written(value, arrays) for name, value in node.attrs.items()}
        rows.append([node.op, [numbers[id(i)] for i in node.inputs], list(node.shape), attrs, node.origin])
    head = {
        "nodes": rows,
        "inputs": [numbers[id(n)] for n in front.inputs],
        "outputs": [numbers[id(n)] for n in front.outputs],
        "names": list(front.output_names),
    }
    return head, arrays


def _written(value: Attr, arrays: Arrays) -> object:
    if isinstance(value, np.ndarray):
        arrays[str(len(arrays))] = value
        return {"array": len(arrays) - 1}
    return list(value) if isinstance(value, tuple) else value


def restored(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Graph:
    """A front from what ``described`` gave. Raises ValueError, KeyError or TypeError if anything is malformed."""
    nodes: list[Node] = []
    for op, operands, shape, attrs, origin in head["nodes"]:
        given = {name: _read(value, arrays) for name, value in attrs.items()}
        if any(not 0 <= n < len(nodes) for n in operands):
            raise ValueError(f"an operand of {origin!r} is not defined before it")
        nodes.append(Node(str(op), tuple(nodes[n] for n in operands), tuple(shape), given, str(origin)))
    inputs, outputs = (tuple(nodes[n] for n in head[k]) for k in ("inputs", "outputs"))
    return Graph(inputs, outputs, tuple(head["names"]), ((),) * len(outputs), "front")


def _read(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Attr:
    if isinstance(value, dict):
        return arrays[str(value["array"])]
    return tuple(value) if isinstance(value, list) else value
