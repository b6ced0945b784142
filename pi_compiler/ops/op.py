"""What an operator is: its meaning, its matrix or its function, and how ONNX writes it.

An operator is one block in this package: the ``Op`` (what the rest of the compiler sees), the
reader that makes nodes from an ONNX call, and the writer that makes ONNX from a node. The blocks
know nothing of the onnx library; the importer and the exporter translate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pi_compiler.errors import InternalError, ShapeMismatch, UnsupportedOperator
from pi_compiler.ir.graph import Attr, FloatArray, IntArray, Node, Shape

Kind: TypeAlias = Literal["linear", "nonlinear", "product", "joint"]
Arrays: TypeAlias = Sequence[FloatArray]
Function: TypeAlias = Callable[[FloatArray], FloatArray]
Matrix: TypeAlias = sparse.csr_array
Constant: TypeAlias = NDArray[Any]


def _no_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    raise InternalError(f"{node.op} at {node.origin!r} is not linear and has no matrix")


def _no_function(node: Node) -> Function:
    raise InternalError(f"{node.op} at {node.origin!r} is not a function of one variable")


def _no_parameters(node: Node) -> Mapping[str, float]:
    return {}


def _no_polynomial(node: Node) -> tuple[float, ...] | None:
    return None


def _no_emit(node: Node, inputs: Sequence[str], out: Writer) -> str:
    raise InternalError(f"{node.op} at {node.origin!r} has no ONNX form")


@dataclass(frozen=True, slots=True)
class Op:
    """One canonical operator.

    Attributes:
        name: what ``Node.op`` says.
        kind: ``"linear"`` has a matrix, ``"nonlinear"`` a function of one variable applied to
            each element, ``"product"`` multiplies two encrypted operands element by element,
            ``"joint"`` is any other function, for MPC only.
        apply: the meaning in float64 on a batch: operands (B, *input.shape), result
            (B, *node.shape).
        matrix: linear only: per operand a (node.size, input.size) matrix, and the bias
            (node.size,), so that y = sum_i A_i x_i + bias on flattened elements.
        function: nonlinear only: the function; takes arrays of any shape that end in the node's
            (any shape at all if the parameters are not per channel).
        target: nonlinear only: the function's name in ``pi_compiler.approx.targets``.
        parameters: nonlinear only: that target's parameters; empty if they differ per channel.
        polynomial: nonlinear only: power-basis coefficients, lowest first, of a function that
            is a polynomial already; else None.
        emit: writes the node as ONNX and returns the name of its value.
    """

    name: str
    kind: Kind
    apply: Callable[[Node, Arrays], FloatArray]
    matrix: Callable[[Node], tuple[tuple[Matrix, ...], FloatArray]] = _no_matrix
    function: Callable[[Node], Function] = _no_function
    target: str = ""
    parameters: Callable[[Node], Mapping[str, float]] = _no_parameters
    polynomial: Callable[[Node], tuple[float, ...] | None] = _no_polynomial
    emit: Callable[[Node, Sequence[str], Writer], str] = _no_emit


class Writer(Protocol):
    """Where an operator writes its ONNX form."""

    def constant(self, values: FloatArray | IntArray) -> str:
        """A constant operand: float arrays become float32, integer arrays int64."""

    def call(self, op: str, inputs: Sequence[str], origin: str, **attrs: Attr) -> str:
        """A standard ONNX operator with one result; returns the result's name."""

    def polynomial(self, node: Node, x: str) -> str:
        """The ``Poly`` activation of a node, applied to a value."""


@dataclass(frozen=True, slots=True)
class Call:
    """One ONNX node to be read: operands already split into encrypted ones and constants.

    Attributes:
        op: the ONNX operator.
        name: the ONNX node's name.
        operands: a ``Node`` where the operand depends on the network's input, an array where it
            is constant, None where it is left out.
        names: names of the operands' values.
        attrs: ONNX attributes as plain Python values.
        shapes: shapes of the results that ONNX's shape inference found, None where it did not.
    """

    op: str
    name: str
    operands: tuple[Node | Constant | None, ...]
    names: tuple[str, ...] = ()
    attrs: Mapping[str, object] = field(default_factory=dict)
    shapes: tuple[Shape | None, ...] = (None,)

    def node(self, index: int = 0) -> Node:
        """An operand that must be encrypted."""
        operand = self.operands[index] if index < len(self.operands) else None
        if isinstance(operand, Node):
            return operand
        raise UnsupportedOperator(f"operand {index} is constant, but a value computed from the input belongs there")

    def constant(self, index: int) -> Constant | None:
        """An operand that must not depend on the network's input; None if it is left out."""
        operand = self.operands[index] if index < len(self.operands) else None
        if isinstance(operand, Node):
            raise UnsupportedOperator(
                f"operand {index} ({self.names[index]!r}) is computed from the encrypted input",
                hint="make it a constant of the model",
            )
        return operand

    def floats(self, index: int) -> FloatArray | None:
        """A constant operand as float64."""
        operand = self.constant(index)
        return None if operand is None else np.asarray(operand, dtype=np.float64)

    def weights(self, index: int) -> FloatArray:
        """A constant operand that may not be left out."""
        operand = self.floats(index)
        if operand is None:
            raise ShapeMismatch(f"operand {index} of {self.op} is missing")
        return operand

    def list(self, name: str, operand: int | None = None) -> tuple[int, ...] | None:
        """Integers from an attribute or, in newer opsets, from a constant operand."""
        if operand is not None and (values := self.constant(operand)) is not None:
            return tuple(int(v) for v in values.reshape(-1))
        found = self.attrs.get(name)
        if found is None:
            return None
        if not isinstance(found, (list, tuple)) or not all(isinstance(v, int) for v in found):
            raise ShapeMismatch(f"attribute {name!r} is not a list of integers")
        return tuple(found)

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        found = self.attrs.get(name, default)
        if not isinstance(found, int):
            raise ShapeMismatch(f"attribute {name!r} is not an integer")
        return found

    def number(self, name: str, default: float) -> float:
        """A float attribute."""
        found = self.attrs.get(name, default)
        if not isinstance(found, (int, float)):
            raise ShapeMismatch(f"attribute {name!r} is not a number")
        return float(found)

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        found = self.attrs.get(name, default)
        if not isinstance(found, str):
            raise ShapeMismatch(f"attribute {name!r} is not a string")
        return found

    def shape(self, index: int = 0) -> Shape:
        """The inferred shape of a result."""
        found = self.shapes[index] if index < len(self.shapes) else None
        if found is None:
            raise ShapeMismatch(f"the shape of result {index} of {self.op} is not known")
        return found


@dataclass(frozen=True, slots=True)
class Reader:
    """How an ONNX operator becomes nodes.

    Attributes:
        read: the nodes of all results; raises ``UnsupportedOperator`` with reason and advice.
        newest: last version of the operator's ONNX schema that ``read`` knows.
        infinite: constant operands may be infinite (bounds).
    """

    read: Callable[[Call], Node | tuple[Node, ...]]
    newest: int
    infinite: bool = False


def ints(node: Node, name: str) -> tuple[int, ...]:
    """An attribute that is a tuple of integers."""
    value = node.attrs[name]
    if not isinstance(value, tuple):
        raise InternalError(f"attribute {name!r} of {node!r} is not a tuple")
    return tuple(int(v) for v in value)


def integer(node: Node, name: str) -> int:
    """An attribute that is an integer."""
    value = node.attrs[name]
    if not isinstance(value, (int, np.integer)):
        raise InternalError(f"attribute {name!r} of {node!r} is not an integer")
    return int(value)


def number(node: Node, name: str) -> float:
    """An attribute that is a number."""
    value = node.attrs[name]
    if not isinstance(value, (int, float, np.number)):
        raise InternalError(f"attribute {name!r} of {node!r} is not a number")
    return float(value)


def array(node: Node, name: str) -> FloatArray:
    """An attribute that is an array, as float64."""
    return np.asarray(node.attrs[name], dtype=np.float64)


def optional_array(node: Node, name: str) -> FloatArray | None:
    """The same for an attribute that may be missing."""
    return array(node, name) if name in node.attrs else None


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        ShapeMismatch: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ShapeMismatch(f"axis {axis} of a tensor with {rank} dimensions")
    return axis % rank


def axes_of(axes: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Axes counted from the front, in order; all of them for None."""
    if axes is None:
        return tuple(range(rank))
    found = sorted(axis_of(a, rank) for a in axes)
    if len(set(found)) != len(found):
        raise ShapeMismatch(f"axes {tuple(axes)} name one axis twice")
    return tuple(found)


def same(node: Node, op: str, origin: str, **attrs: Attr) -> Node:
    """A node with one operand and its shape."""
    return Node(op, (node,), node.shape, attrs, origin)


def selection(apply: Callable[[Node, Arrays], FloatArray]) -> Callable[[Node], tuple[tuple[Matrix, ...], FloatArray]]:
    """The matrix of a data movement, from its meaning: moving element numbers instead of values."""

    def matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
        zeros = [np.zeros((1, *i.shape)) for i in node.inputs]
        bias = apply(node, zeros).reshape(-1)
        matrices: list[Matrix] = []
        for place, operand in enumerate(node.inputs):
            numbers = np.arange(1.0, operand.size + 1).reshape(1, *operand.shape)
            operands = [*zeros[:place], numbers, *zeros[place + 1 :]]
            # Whole numbers this small are exact, and a constant fill cancels in the difference.
            moved = np.rint(apply(node, operands).reshape(-1) - bias).astype(np.int64)
            matrices.append(selection_matrix(moved - 1, operand.size))
        return tuple(matrices), bias

    return matrix


def selection_matrix(index: IntArray, size: int) -> Matrix:
    """The matrix with a one at (i, index[i]); rows with a negative index are zero."""
    present = index >= 0
    columns = index[present]
    return rows_matrix(np.ones(columns.size), columns, present.astype(np.int64), (index.size, size))


def rows_matrix(data: FloatArray, columns: NDArray[np.integer], counts: IntArray, shape: tuple[int, int]) -> Matrix:
    """The sparse matrix with these entries row after row, ``counts`` in each; 32-bit indices where they suffice."""
    small = np.int32 if max(shape[1], data.size) < 2**31 else np.int64
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(small)
    return sparse.csr_array((data, columns.astype(small, copy=False), starts), shape=shape)
