"""Runs a graph in float64 on a batch: its exact meaning, which every later stage is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler.errors import InternalError, ShapeMismatch
from pi_compiler.ir.client_ops import apply_client_ops
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops import OPS
from pi_compiler.ops.op import Matrix

Observer = Callable[[Node, FloatArray], None]


def as_batch(node: Node, values: ArrayLike) -> FloatArray:
    """Samples for an input, as (B, *node.shape) float64.

    Args:
        node: the ``"Input"`` node.
        values: (B, *node.shape), or without the model's own batch dimension of 1, as data sets
            are stored: (B, *node.shape[1:]).

    Raises:
        ShapeMismatch: any other shape, or values that are not numbers.
    """
    given = np.asarray(values)
    if given.dtype.kind not in "fiub":
        raise ShapeMismatch(f"input {node.origin!r} holds {given.dtype}, needed are numbers")
    if given.ndim and given.shape[1:] == node.shape:
        return given.astype(np.float64, copy=False)
    if given.ndim and node.shape[:1] == (1,) and given.shape[1:] == node.shape[1:]:
        return given.astype(np.float64, copy=False).reshape(len(given), *node.shape)
    wanted = node.shape[1:] if node.shape[:1] == (1,) else node.shape
    raise ShapeMismatch(
        f"input {node.origin!r} has samples of another shape",
        f"found {list(given.shape)}, needed {['N', *wanted]}".replace("'", ""),
    )


def evaluate(
    graph: Graph, inputs: Mapping[str, ArrayLike], *, keep: Observer | None = None, client: bool = False
) -> dict[str, FloatArray]:
    """The outputs of a graph for a batch of samples.

    Args:
        graph: the network.
        inputs: per input name the samples, see ``as_batch``.
        keep: called once with every node (inputs included) and its value (B, *node.shape), operands
            before users. Values must not be changed; they are freed after their last use.
        client: also apply what the client does after decryption (``Graph.client_ops``).

    Returns:
        Per output name (B, *node.shape). Values outside a function's domain become NaN or infinite.

    Raises:
        ShapeMismatch: inputs are missing or unknown, have the wrong shape, or different B.
    """
    names = {n.origin for n in graph.inputs}
    if names != set(inputs):
        raise ShapeMismatch(
            "the inputs given are not those of the model",
            f"found {sorted(inputs)}, needed {sorted(names)}",
        )
    values: dict[int, FloatArray] = {id(n): as_batch(n, inputs[n.origin]) for n in graph.inputs}
    if len({len(v) for v in values.values()}) > 1:
        raise ShapeMismatch(f"inputs have different numbers of samples: {[len(v) for v in values.values()]}")
    order = list(graph.nodes())
    uses = _uses(graph, order)
    for node in order:
        if node.op != "Input":
            with np.errstate(all="ignore"):
                values[id(node)] = OPS[node.op].apply(node, [values[id(i)] for i in node.inputs])
        if keep is not None:
            keep(node, values[id(node)])
        for operand in node.inputs:
            uses[id(operand)] -= 1
            if not uses[id(operand)]:
                del values[id(operand)]
    client_ops = graph.client_ops or ((),) * len(graph.outputs)
    return {
        name: apply_client_ops(ops if client else (), values[id(node)], len(node.shape))
        for name, node, ops in zip(graph.output_names, graph.outputs, client_ops, strict=True)
    }


def _uses(graph: Graph, order: list[Node]) -> dict[int, int]:
    """How often each node is read; outputs once more, so that they stay."""
    uses = {id(n): 0 for n in order}
    for node in (*(i for n in order for i in n.inputs), *graph.outputs):
        uses[id(node)] += 1
    return uses


def linear_matrix(node: Node) -> tuple[tuple[Matrix, ...], FloatArray]:
    """Matrices, one per operand, and bias of a linear node: y = sum_i A_i x_i + bias, flattened.

    Raises:
        InternalError: the node is not linear.
    """
    if node.op not in OPS or OPS[node.op].kind != "linear":
        raise InternalError(f"{node!r} is not linear")
    return OPS[node.op].matrix(node)
