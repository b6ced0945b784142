"""What the importer offers: the network of an ONNX model, and a list of what is in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pi_compiler.importer import load
from pi_compiler.importer.walk import MaxPool, Target, Unsupported, Walk
from pi_compiler.ir.graph import Graph, Shape
from pi_compiler.ops import OPS, recognize


@dataclass(frozen=True, slots=True)
class Imported:
    """What came out of an ONNX model.

    Attributes:
        graph: the network.
        notes: what was changed on the way and the user should know.
        opset: operator set of the file.
        model: the ONNX model as bytes, weights included, as it was given.
    """

    graph: Graph
    notes: tuple[str, ...]
    opset: int
    model: bytes


@dataclass(frozen=True, slots=True)
class Activation:
    """A nonlinearity: the layer's ONNX name, canonical operator, number of scalar evaluations."""

    origin: str
    op: str
    elements: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is in a model.

    Attributes:
        operators: how often each ONNX operator works on the input, functions inlined, constants
            folded.
        unsupported: every node without a private counterpart.
        relu_count: scalar ReLU evaluations of one inference.
        nonlinearities: every nonlinearity, in order, products of two encrypted values included.
        inputs: shape per input.
        outputs: shape per output, where it is known.
        opset: operator set of the file.
        notes: what an import changes.
    """

    operators: Mapping[str, int]
    unsupported: tuple[Unsupported, ...]
    relu_count: int
    nonlinearities: tuple[Activation, ...]
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    opset: int
    notes: tuple[str, ...]


def import_model(
    source: load.Source,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    maxpool: MaxPool = "refuse",
    target: Target = "ckks",
) -> Imported:
    """The network of an ONNX model.

    Args:
        source: path of an ``.onnx`` file, its bytes, or a loaded model.
        input_shapes: per input name its shape, for models that leave dimensions open; an open
            first dimension is the batch and becomes 1 by itself.
        maxpool: ``"average"`` replaces every MaxPool by an AveragePool and notes it.
        target: under ``"mpc"`` comparisons, maxima, inner softmax and products of matrices are read too.

    Raises:
        UnsupportedOperator: naming every node that has no private counterpart.
        ModelError: the file is unreadable or malformed, or weights are NaN or infinite.
    """
    model, name = load.load(source)
    opset = load.opset_of(model, name)
    given = load.encoded(model, name)
    prepared = load.prepare(model, name, input_shapes)
    walk = Walk(prepared, maxpool, target)
    walk.run()
    graph = recognize.recognize(walk.partial() if walk.faulty else walk.graph(name))
    walk.leave(graph)
    walk.refuse(name)
    return Imported(graph, tuple(walk.notes), opset, given)


def inspect_model(
    source: load.Source,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    maxpool: MaxPool = "refuse",
    target: Target = "ckks",
) -> Inspection:
    """What is in an ONNX model; unsupported operators are listed instead of raised.

    Args:
        source: see ``import_model``.
        input_shapes: see ``import_model``.
        maxpool: see ``import_model``.
        target: see ``import_model``.

    Raises:
        ModelError: the file is unreadable or malformed, or weights are NaN or infinite.
    """
    model, name = load.load(source)
    opset = load.opset_of(model, name)
    prepared = load.prepare(model, name, input_shapes)
    walk = Walk(prepared, maxpool, target)
    walk.run()
    graph = recognize.recognize(walk.partial() if walk.faulty else walk.graph(name))
    walk.leave(graph)
    walk.refuse(name, unsupported=False)
    found = [n for n in graph.nodes() if n.op in OPS and OPS[n.op].kind != "linear"]
    shapes = load.shapes_of(prepared)
    return Inspection(
        operators=dict(walk.operators.most_common()),
        unsupported=tuple(walk.unsupported),
        relu_count=sum(n.size for n in found if n.op == "Relu"),
        nonlinearities=tuple(Activation(n.origin, n.op, n.size) for n in found),
        inputs={n.origin: n.shape for n in walk.inputs},
        outputs={o.name: shapes[o.name] for o in prepared.graph.output if o.name in shapes},
        opset=opset,
        notes=tuple(walk.notes),
    )
