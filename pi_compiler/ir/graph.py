"""What the network computes: mathematics on tensors, no cryptography.

A ``Graph`` is made by the importer. Its nodes are ONNX operators in a canonical form: operands
that depend on the (to be encrypted) input are ``inputs``; everything constant, such as weights,
is an attribute. Shapes are static and are those of one sample, as ONNX writes them, with the
leading batch dimension fixed to 1 where the model has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]
Attr: TypeAlias = int | float | str | bool | tuple[int, ...] | tuple[float, ...] | FloatArray | IntArray | object

_NO_ATTRS: Mapping[str, Attr] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator.

    Attributes:
        op: a key of ``pi_compiler.ops.OPS``, or ``"Input"``.
        inputs: operands that depend on the network's input, in ONNX order.
        shape: shape of the result, batch dimension included.
        attrs: attributes and constant operands (arrays), by name.
        origin: name of the ONNX node; errors, traces and reports use it.
    """

    op: str
    inputs: tuple[Node, ...]
    shape: Shape
    attrs: Mapping[str, Attr] = field(default_factory=lambda: _NO_ATTRS)
    origin: str = ""

    @property
    def size(self) -> int:
        """Number of elements of the result."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __repr__(self) -> str:
        return f"<{self.op} {self.origin!r} {list(self.shape)}>"


@dataclass(frozen=True, slots=True)
class Graph:
    """A network: inputs, outputs and, between them, nodes.

    Attributes:
        inputs: the ``"Input"`` nodes; their ``origin`` is the ONNX input's name.
        outputs: the result nodes.
        output_names: ONNX output names, one per output.
        client_ops: operators at the very end that the client applies in clear after
            decryption, as ``(op, attrs)`` per output, outermost last (Softmax, ArgMax ...).
        name: the model's name.
    """

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    output_names: tuple[str, ...]
    client_ops: tuple[tuple[tuple[str, Mapping[str, Attr]], ...], ...] = ()
    name: str = "model"

    def nodes(self) -> Iterator[Node]:
        """Every node once, operands before users."""
        done: set[int] = set()
        stack: list[tuple[Node, bool]] = [(n, False) for n in (*reversed(self.outputs), *reversed(self.inputs))]
        while stack:
            node, ready = stack.pop()
            if id(node) in done:
                continue
            if ready:
                done.add(id(node))
                yield node
            else:
                stack.append((node, True))
                stack.extend((i, False) for i in reversed(node.inputs) if id(i) not in done)

    def rewrite(self, change: Mapping[Node, Node]) -> Graph:
        """The graph with some nodes replaced, users rebuilt.

        Args:
            change: old node -> new node. A new node's inputs are old nodes; they are
                rewritten too.
        """
        new: dict[int, Node] = {}
        for node in self.nodes():
            target = change.get(node, node)
            inputs = tuple(new.get(id(i), i) for i in target.inputs)
            same = all(a is b for a, b in zip(inputs, target.inputs, strict=True))
            new[id(node)] = target if same else replace(target, inputs=inputs)
        return replace(
            self,
            inputs=tuple(new[id(n)] for n in self.inputs),
            outputs=tuple(new[id(n)] for n in self.outputs),
        )
