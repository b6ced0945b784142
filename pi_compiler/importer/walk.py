"""Walks a prepared ONNX model, node by node, and makes the canonical graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pi_compiler.errors import ModelError, ShapeMismatch, UnsupportedOperator
from pi_compiler.importer import load
from pi_compiler.importer.advice import HIDDEN, RANDOM, advice
from pi_compiler.ir.client_ops import CLIENT_OPS
from pi_compiler.ir.graph import Attr, Graph, Node, Shape
from pi_compiler.ops import INNER_READERS, MPC_READERS, READERS, recognize
from pi_compiler.ops.front import strange_masks
from pi_compiler.ops.op import Call, Constant, axis_of
from pi_compiler.ops.pooling import read_average_pool
from pi_compiler.ops.shaping import checked

MaxPool: TypeAlias = Literal["refuse", "average"]
Target: TypeAlias = Literal["ckks", "mpc"]

_HARD = (ValueError, TypeError, IndexError, KeyError, ArithmeticError, AttributeError, MemoryError)


@dataclass(frozen=True, slots=True)
class Unsupported:
    """An ONNX node without a private counterpart: its name, operator, why, and what to try."""

    node: str
    op: str
    reason: str
    advice: str


@dataclass(frozen=True, slots=True)
class _Deferred:
    """A value that the client computes from a decrypted one."""

    node: Node
    ops: tuple[tuple[str, Mapping[str, Attr]], ...]
    rank: int
    by: onnx.NodeProto


class _Unknown:
    """A value behind something unsupported."""


_UNKNOWN = _Unknown()
_Value: TypeAlias = "Node | Constant | _Deferred | _Unknown"


class Walk:
    """One pass over the nodes, in order; faults are collected, not raised."""

    def __init__(self, model: onnx.ModelProto, maxpool: MaxPool, target: Target = "ckks") -> None:
        self.model = model
        self.target = target
        self.readers = {**READERS, **recognize.READERS, **INNER_READERS, **(MPC_READERS if target == "mpc" else {})}
        self.inner = _inner(model)
        self.maxpool = maxpool
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self.shapes = load.shapes_of(model)
        self.values: dict[str, _Value] = {}
        self.inputs: list[Node] = []
        self.made: list[Node] = []
        self.operators: Counter[str] = Counter()
        self.unsupported: list[Unsupported] = []
        self.malformed: list[str] = []
        self.notes: list[str] = []
        self.not_finite: dict[str, str] = {}

    def run(self) -> None:
        """Reads everything."""
        weights = {t.name: t for t in self.model.graph.initializer}
        for name, tensor in weights.items():
            self.values[name] = self.constant(tensor)
        for port in self.model.graph.input:
            if port.name not in weights:
                whole = port.type.tensor_type.elem_type in load.WHOLE
                node = Node("Input", (), self.shapes[port.name], {"whole": True} if whole else {}, port.name)
                self.inputs.append(node)
                self.values[port.name] = node
        for number, proto in enumerate(self.model.graph.node):
            self.read(proto, proto.name or f"{proto.op_type}_{number}")
        for output in self.model.graph.output:
            value = self.values.get(output.name, _UNKNOWN)
            if isinstance(value, np.ndarray):
                self.malformed.append(f"output {output.name!r} does not depend on any input")
            elif isinstance(value, _Unknown) and not self.faulty:
                self.malformed.append(f"output {output.name!r} is not a result that can be computed encrypted")

    def for_client(self, proto: onnx.NodeProto) -> bool:
        """Whether the client can apply it after decryption; what others read stays in the network where it can."""
        stays = proto.op_type in self.readers and self.inner.intersection(proto.output)
        return proto.op_type in CLIENT_OPS and not proto.domain and not stays

    def constant(self, tensor: onnx.TensorProto) -> _Value:
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except _HARD as error:
            self.malformed.append(f"weights {tensor.name!r}: {load.first_lines(error)[0]}")
            return _UNKNOWN

    def read(self, proto: onnx.NodeProto, name: str) -> None:
        """One node: its results go into ``values``."""
        operands = [self.values.get(n, _UNKNOWN) if n else None for n in proto.input]
        nested = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in proto.attribute)
        constant = all(o is None or isinstance(o, np.ndarray) for o in operands) and not nested
        if not constant:
            self.operators[proto.op_type] += 1
        for operand in operands:
            if isinstance(operand, _Deferred) and proto.op_type not in (*CLIENT_OPS, "Identity", "Cast"):
                self.hidden(operand)
        results: Sequence[_Value]
        if constant:
            results = self.evaluate(proto, name)
        elif nested or any(isinstance(o, _Unknown) for o in operands):
            results = self.unreadable(proto, name, nested)
        elif self.for_client(proto) and isinstance(operands[0], (Node, _Deferred)):
            results = [self.defer(proto, name, operands[0])]
        elif isinstance(operands[0], _Deferred) and proto.op_type in ("Identity", "Cast"):
            results = [operands[0]]
        elif any(isinstance(o, _Deferred) for o in operands):
            results = self.unreadable(proto, name, nested)
        else:
            results = self.convert(proto, name, [o if isinstance(o, (Node, np.ndarray)) else None for o in operands])
        for place, output in enumerate(proto.output):
            if output:
                self.values[output] = results[place] if place < len(results) else _UNKNOWN

    def evaluate(self, proto: onnx.NodeProto, name: str) -> list[_Value]:
        """A node of constants that folding left alone (several results, or a random one)."""
        if proto.op_type in RANDOM:
            self.refused(proto, name, *RANDOM[proto.op_type])
            return []
        feeds = {n: self.values[n] for n in proto.input if n}
        try:
            with load.translated("constant"):
                found = ReferenceEvaluator(proto, opsets={"": self.opset}).run(None, feeds)
        except ModelError as error:
            self.refused(proto, name, f"a constant cannot be computed ({error.details[0]})", "fold constants on export")
            return []
        return [v if isinstance(v, np.ndarray) else _UNKNOWN for v in found]

    def unreadable(self, proto: onnx.NodeProto, name: str, nested: bool) -> list[_Value]:
        """Behind something unsupported; it may be unsupported itself."""
        if nested or proto.domain not in ("", "ai.onnx") or proto.op_type not in (*self.readers, *CLIENT_OPS):
            self.refused(proto, name, *advice(proto.op_type, proto.domain))
        return []

    def refused(self, proto: onnx.NodeProto, name: str, reason: str, advice: str) -> None:
        self.unsupported.append(Unsupported(name, proto.op_type, reason, advice))

    def hidden(self, value: _Deferred) -> None:
        """Notes once that an operator of the client is used inside the network."""
        name = value.by.name or value.by.op_type
        if all(u.node != name for u in self.unsupported):
            self.refused(value.by, name, *HIDDEN)

    def defer(self, proto: onnx.NodeProto, name: str, operand: Node | _Deferred) -> _Value:
        """Softmax, LogSoftmax or ArgMax: for the client, if nothing else follows."""
        before = operand if isinstance(operand, _Deferred) else _Deferred(operand, (), len(operand.shape), proto)
        given = attributes(proto)
        default = 0 if proto.op_type == "ArgMax" else -1
        try:
            axis = axis_of(int(str(given.get("axis", default))), before.rank)
        except ShapeMismatch as error:
            self.malformed.append(f"{proto.op_type} {name!r}: {error.what}")
            return _UNKNOWN
        attrs: dict[str, Attr] = {"axis": axis}
        rank = before.rank
        if proto.op_type == "ArgMax":
            keep = bool(given.get("keepdims", 1))
            attrs |= {"keepdims": int(keep), "select_last_index": int(bool(given.get("select_last_index", 0)))}
            rank -= 0 if keep else 1
        return _Deferred(before.node, (*before.ops, (proto.op_type, attrs)), rank, proto)

    def convert(self, proto: onnx.NodeProto, name: str, operands: list[Node | Constant | None]) -> list[_Value]:
        """A node that works on encrypted values."""
        own = proto.domain == load.OWN_DOMAIN
        standard = proto.domain in ("", "ai.onnx") and onnx.defs.has(proto.op_type, self.opset, "")
        key = f"{load.OWN_DOMAIN}.{proto.op_type.split('_')[0]}" if own else proto.op_type
        reader = self.readers.get(key)
        if reader is None or not (own or standard):
            self.refused(proto, name, *advice(proto.op_type, proto.domain))
            return []
        if not own and (version := onnx.defs.get_schema(proto.op_type, self.opset).since_version) > reader.newest:
            reason = f"its version of operator set {version} is newer than the one known, {reader.newest}"
            self.refused(proto, name, reason, "export with an older operator set, for instance 17")
            return []
        if not reader.infinite:
            self.check_finite(proto, name, operands)
        shapes = tuple(self.shapes.get(o) for o in proto.output)
        call = Call(proto.op_type, name, tuple(operands), tuple(proto.input), attributes(proto), shapes)
        read = reader.read
        if self.maxpool == "average" and proto.op_type in ("MaxPool", "GlobalMaxPool"):
            read = read_average_pool if proto.op_type == "MaxPool" else READERS["GlobalAveragePool"].read
            self.notes.append(
                f"{proto.op_type} {name!r} was replaced by average pooling: the network was not trained for that, "
                "check its accuracy or retrain"
            )
        try:
            made = read(call)
            nodes = made if isinstance(made, tuple) else (made,)
            self.check_shapes(nodes, shapes)
        except UnsupportedOperator as error:
            self.refused(proto, name, error.what, error.hint or "replace it")
            return []
        except ModelError as error:
            self.malformed.append(f"{proto.op_type} {name!r}: {error.what}")
            return []
        except _HARD as error:
            self.malformed.append(f"{proto.op_type} {name!r}: {load.first_lines(error)[0]}")
            return []
        self.made.extend(nodes)
        return list(nodes)

    def check_finite(self, proto: onnx.NodeProto, name: str, operands: Sequence[Node | Constant | None]) -> None:
        for operand, value in zip(operands, proto.input, strict=False):
            if isinstance(operand, np.ndarray) and operand.dtype.kind not in "iubOSU":
                wrong = int((~np.isfinite(operand.astype(np.float64))).sum())
                if wrong:
                    self.not_finite[value] = f"{value!r} ({proto.op_type} {name!r}): {wrong} of {operand.size} values"

    @staticmethod
    def check_shapes(nodes: tuple[Node, ...], inferred: tuple[Shape | None, ...]) -> None:
        for node, shape in zip(nodes, inferred, strict=False):
            if shape is not None and node.shape != shape:
                raise ShapeMismatch(f"the result has shape {list(node.shape)}, ONNX infers {list(shape)}")
            checked(node.shape)

    @property
    def faulty(self) -> bool:
        """Whether the graph is incomplete."""
        return bool(self.unsupported or self.malformed or self.not_finite)

    def leave(self, graph: Graph) -> None:
        """Adds what recognition left over."""
        left = [*recognize.unrecognized(graph), *strange_masks(graph)]
        self.unsupported.extend(Unsupported(*one) for one in left)

    def refuse(self, name: str, *, unsupported: bool = True) -> None:
        """Raises what was collected, everything of one kind in one message."""
        if self.not_finite:
            raise ModelError(
                f"weights of {name} are NaN or infinite",
                *self.not_finite.values(),
                hint="train or export the model again",
            )
        if self.malformed:
            raise ModelError(f"{name} is malformed", *self.malformed)
        if unsupported and self.unsupported:
            raise UnsupportedOperator(
                f"{name} has {len(self.unsupported)} nodes that cannot run encrypted"
                if len(self.unsupported) > 1
                else f"{name} has a node that cannot run encrypted",
                *(f"{u.op} {u.node!r}: {u.reason}; try: {u.advice}" for u in self.unsupported),
            )

    def graph(self, name: str) -> Graph:
        """The whole network."""
        outputs: list[Node] = []
        client: list[tuple[tuple[str, Mapping[str, Attr]], ...]] = []
        for port in self.model.graph.output:
            value = self.values[port.name]
            if isinstance(value, _Deferred):
                names = " and ".join(op for op, _ in value.ops)
                self.notes.append(f"the client applies {names} at output {port.name!r} after decryption")
                outputs.append(value.node)
                client.append(value.ops)
            elif isinstance(value, Node):
                outputs.append(value)
                client.append(())
        ports = tuple(o.name for o in self.model.graph.output)
        title = self.model.graph.name or name
        return Graph(tuple(self.inputs), tuple(outputs), ports, tuple(client), title)

    def partial(self) -> Graph:
        """Everything that was read, complete or not; its outputs are what nothing read uses."""
        used = {id(i) for n in self.made for i in n.inputs}
        ends = tuple({id(n): n for n in self.made if id(n) not in used}.values())
        return Graph(tuple(self.inputs), ends, tuple(n.origin for n in ends))


def _inner(model: onnx.ModelProto) -> frozenset[str]:
    """Results of Softmax and its like that more than the client's own operators read."""
    inside: set[str] = set()
    for proto in reversed(model.graph.node):
        passes = proto.op_type in (*CLIENT_OPS, "Identity", "Cast")
        if not passes or inside.intersection(proto.output):
            inside.update(proto.input)
    return frozenset(inside)


def attributes(proto: onnx.NodeProto) -> dict[str, object]:
    """Attributes as plain Python values."""
    found: dict[str, object] = {}
    for attribute in proto.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        elif not isinstance(value, (int, float, str)):
            value = list(value)
        found[attribute.name] = value
    return found
