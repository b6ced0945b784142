"""Writes a graph back to ONNX, so that any runtime can run what will run encrypted.

Canonical operators become standard ones of operator set 20. A polynomial activation becomes a call
of a model-local function with its coefficients as operands: Horner's scheme for the power basis,
Clenshaw's (MTAC 9, 1955) for the Chebyshev basis. Weights are stored as float32.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pi_compiler.errors import ModelError, ParameterError
from pi_compiler.ir.graph import Attr, FloatArray, Graph, IntArray, Node
from pi_compiler.ops import OPS
from pi_compiler.ops.elementwise import poly_operands
from pi_compiler.ops.masks import is_whole

OPSET, IR_VERSION = 20, 9
DOMAIN = "pi_compiler"
"""Domain of the functions that polynomial activations call."""


def export(graph: Graph, path: str | os.PathLike[str] | None) -> onnx.ModelProto:
    """The graph as an ONNX model: operator set 20, float32, batch dimension as in the graph.

    Operators that the client applies after decryption are written too.

    Args:
        graph: the network, before or after activations were replaced.
        path: where to write it; None writes nothing.

    Raises:
        ModelError: values do not fit into float32, or the model is too large for a file.
        ParameterError: the file cannot be written.
    """
    writer = _Writer(graph)
    model = writer.model()
    if path is not None:
        _save(model, Path(path))
    return model


def _save(model: onnx.ModelProto, path: Path) -> None:
    """All or nothing."""
    try:
        data = model.SerializeToString()
    except Exception as error:  # the library names no type for it
        raise ModelError("the model is too large for an ONNX file") from error
    try:
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(partial).chmod(0o644)
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        raise ParameterError(f"cannot write {str(path)!r}", error.strerror or type(error).__name__) from error


class _Writer:
    """Collects ONNX nodes, constants and functions; operators see it as ``ops.op.Writer``."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.functions: dict[str, onnx.FunctionProto] = {}
        self.names: dict[int, str] = {id(n): n.origin for n in graph.inputs}
        self.used: set[str] = {n.origin for n in graph.inputs} | set(graph.output_names)
        self.node_names: set[str] = set()
        self.origin = ""

    def model(self) -> onnx.ModelProto:
        """Everything as one model."""
        last = {id(n): name for n, name, ops in self.ends() if not ops}
        for node in self.graph.inputs:
            if is_whole(node):
                self.names[id(node)] = self.call("Cast", [node.origin], node.origin, to=int(TensorProto.FLOAT))
        for node in self.graph.nodes():
            if node.op != "Input":
                self.origin = node.origin or node.op
                before = len(self.nodes)
                result = OPS[node.op].emit(node, [self.names[id(i)] for i in node.inputs], self)
                self.names[id(node)] = self.renamed(result, last.get(id(node)), before)
        outputs = [self.output(node, name, ops) for node, name, ops in self.ends()]
        inputs = [helper.make_tensor_value_info(n.origin, _kind(n), n.shape) for n in self.graph.inputs]
        body = helper.make_graph(self.nodes, self.graph.name, inputs, outputs, self.constants)
        imports = [helper.make_opsetid("", OPSET)]
        imports += [helper.make_opsetid(DOMAIN, 1)] * bool(self.functions)
        return helper.make_model(
            body,
            ir_version=IR_VERSION,
            opset_imports=imports,
            functions=list(self.functions.values()),
            producer_name="pi-compiler",
        )

    def ends(self) -> list[tuple[Node, str, Sequence[tuple[str, Mapping[str, Attr]]]]]:
        """Outputs with their names and what the client does with them."""
        client = self.graph.client_ops or ((),) * len(self.graph.outputs)
        return list(zip(self.graph.outputs, self.graph.output_names, client, strict=True))

    def renamed(self, result: str, wanted: str | None, before: int) -> str:
        """Gives a value the name of the output that it is, if this node made it."""
        if wanted is None or len(self.nodes) == before or self.nodes[-1].output[0] != result:
            return result
        self.nodes[-1].output[0] = wanted
        return wanted

    def output(self, node: Node, name: str, ops: Sequence[tuple[str, Mapping[str, Attr]]]) -> onnx.ValueInfoProto:
        """One output: the client's operators, or another name for a value that has one already."""
        value, kind, shape = self.names[id(node)], TensorProto.FLOAT, list(node.shape)
        self.origin = name
        for op, attrs in ops:
            value = self.call(op, [value], name, **attrs)
            if op == "ArgMax":
                kind = TensorProto.INT64
                axis = int(str(attrs["axis"]))
                shape[axis : axis + 1] = [1] * bool(attrs["keepdims"])
        if ops:
            self.nodes[-1].output[0] = name
        elif value != name:
            self.nodes.append(helper.make_node("Identity", [value], [name], self.unique_node(name)))
        return helper.make_tensor_value_info(name, kind, shape)

    def unique(self, name: str) -> str:
        """A name for a value."""
        return _unique(name, self.used)

    def unique_node(self, name: str) -> str:
        """A name for a node."""
        return _unique(name, self.node_names)

    def constant(self, values: FloatArray | IntArray) -> str:
        """See ``ops.op.Writer``."""
        array = np.asarray(values)
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
            if not np.isfinite(array).all():
                raise ModelError(f"constants of layer {self.origin!r} do not fit into float32")
        name = self.unique(f"{self.origin}.constant")
        self.constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def call(self, op: str, inputs: Sequence[str], origin: str, **attrs: Attr) -> str:
        """See ``ops.op.Writer``."""
        return self.append(op, inputs, origin, "", attrs)

    def append(self, op: str, inputs: Sequence[str], origin: str, domain: str, attrs: Mapping[str, Attr]) -> str:
        """One ONNX node; returns the name of its result."""
        origin = origin or op
        result = self.unique(f"{origin}.{op}")
        node = helper.make_node(op, list(inputs), [result], self.unique_node(origin), domain=domain)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attrs.items())
        self.nodes.append(node)
        return result

    def polynomial(self, node: Node, x: str) -> str:
        """See ``ops.op.Writer``."""
        coef, low, high = poly_operands(node)
        basis = str(node.attrs["basis"])
        coef = coef if len(coef) > 1 else np.concatenate([coef, np.zeros_like(coef)])
        name = f"Poly_{basis}_{len(coef) - 1}"
        if name not in self.functions:
            self.functions[name] = _function(name, basis, len(coef) - 1)
        operands = [x, self.constant(coef), self.constant(np.stack([low, high]))]
        return self.append(name, operands, node.origin, DOMAIN, {})


def _kind(node: Node) -> int:
    return TensorProto.INT64 if is_whole(node) else TensorProto.FLOAT


def _unique(name: str, used: set[str]) -> str:
    found, number = name, 1
    while found in used:
        number += 1
        found = f"{name}_{number}"
    used.add(found)
    return found


def _function(name: str, basis: str, degree: int) -> onnx.FunctionProto:
    """The function y = p(x): operands x, coef (degree+1, ...) and domain (2, ...), both broadcasting to x."""
    nodes: list[onnx.NodeProto] = []

    def make(op: str, *inputs: str) -> str:
        result = f"t{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [result]))
        return result

    c = [f"c{k}" for k in range(degree + 1)]
    nodes.append(helper.make_node("Split", ["coef"], c, axis=0, num_outputs=degree + 1))
    if basis == "power":
        y = make("Mul", "x", c[degree])
        for k in reversed(range(1, degree)):
            y = make("Mul", make("Add", y, c[k]), "x")
        y = make("Add", y, c[0])
    else:
        nodes.append(helper.make_node("Split", ["domain"], ["low", "high"], axis=0, num_outputs=2))
        width, twice_center = make("Sub", "high", "low"), make("Add", "high", "low")
        u = make("Div", make("Sub", make("Add", "x", "x"), twice_center), width)
        twice = make("Add", u, u)
        after, y = "", c[degree]
        for k in reversed(range(1, degree)):
            step = make("Add", make("Mul", twice, y), c[k])
            after, y = y, make("Sub", step, after) if after else step
        y = make("Add", make("Mul", u, y), c[0])
        y = make("Sub", y, after) if after else y
    nodes.append(helper.make_node("Identity", [y], ["y"]))
    imports = [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, name, ["x", "coef", "domain"], ["y"], nodes, imports)
