"""What the owner of the data computes before encryption: lookups of token numbers, and what follows of them alone.

A lookup by an encrypted number costs a product with the whole table; its owner does it for nothing. What may go along:
sums of looked-up rows, constants and a normalization: nothing that mixes tokens and no matrix of the model. The tables
are then known to whoever encrypts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from pi_compiler.errors import ParameterError, ShapeMismatch
from pi_compiler.ir.front import input_shapes
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.ops.masks import ALONG, CLOSED, is_whole, summand
from pi_compiler.ops.op import array
from pi_compiler.ops.shaping import MOVES


def split(graph: Graph, *, lookups: bool = True) -> tuple[Graph | None, Graph]:
    """The front and the rest, whose inputs are the front's outputs.

    Args:
        graph: the network.
        lookups: whether tables may be known to the owner of the data.

    Returns:
        (None, graph) where there is nothing to compute before encryption.
    """
    own: set[int] = set()
    for node in graph.nodes():
        along = node.op in ALONG and bool(node.inputs) and all(id(i) in own for i in node.inputs)
        if is_whole(node) or along or (lookups and node.op == "Embedding"):
            own.add(id(node))
    if all(n.op == "Input" for n in graph.nodes() if id(n) in own):
        return None, graph
    given = {id(n) for n in graph.inputs}
    ends = dict.fromkeys(i for n in graph.nodes() if id(n) not in own for i in n.inputs if id(i) in own | given)
    ends |= dict.fromkeys(n for n in graph.outputs if id(n) in own)
    new: dict[Node, Node] = {}
    sent: dict[Hashable, tuple[Node, Node]] = {}
    names: set[str] = set()
    seen: dict[int, Hashable] = {}
    for node in ends:
        made = _meaning(node, seen)
        if made not in sent:
            name = node.origin if node.origin not in names else f"{node.origin}/{len(names)}"
            names.add(name)
            sent[made] = node, Node("Input", (), node.shape, node.attrs if node.op == "Input" else {}, name)
        new[node] = sent[made][1]
    ends = dict.fromkeys(node for node, _ in sent.values())
    rest = replace(graph.rewrite(new), inputs=tuple(port for _, port in sent.values()))
    titles = tuple(port.origin for port in rest.inputs)
    return Graph(graph.inputs, tuple(ends), titles, ((),) * len(ends), graph.name), rest


def handed_over(front: Graph | None, rest: Graph, wanted: Mapping[str, Node]) -> tuple[Graph, Graph, dict[str, Node]]:
    """Values that follow from what the owner of the data sends anyway, computed and sent by the owner too.

    Args:
        front: computed before encryption.
        rest: what is behind it.
        wanted: nodes on inputs of the rest, by the layer that asks for each.

    Returns:
        The front with further outputs, the rest with as many further inputs, and the input for each layer.

    Raises:
        ParameterError: a node takes what only the network computes; all of them in one message.
    """
    faults = {name: i.op for name, n in wanted.items() for i in reached(n) if i.op != "Input" and i.op not in ALONG}
    if faults or front is None:
        raise ParameterError(
            "a mask is not computed by the owner of the data",
            *(
                f"layer {name!r}: its mask is made by {op}, on encrypted or shared numbers"
                for name, op in faults.items()
            ),
            hint="--embedding client, a mask that follows from whole numbers, or --softmax max-exp",
        )
    before = dict(zip(front.output_names, front.outputs, strict=True))
    seen: dict[int, Hashable] = {}
    ports: dict[Hashable, Node] = {}
    ends: list[Node] = []
    for node in wanted.values():
        if _meaning(node, seen) not in ports:
            ports[_meaning(node, seen)] = Node("Input", (), node.shape, {}, node.origin)
            ends.append(node)
    asked = Graph(rest.inputs, tuple(ends), tuple(n.origin for n in ends))
    made = asked.rewrite({n: before[n.origin] for n in rest.inputs})
    outputs = (*front.outputs, *made.outputs)
    more = replace(
        front, outputs=outputs, output_names=(*front.output_names, *made.output_names), client_ops=((),) * len(outputs)
    )
    rest = replace(rest, inputs=(*rest.inputs, *ports.values()))
    return more, rest, {name: ports[_meaning(n, seen)] for name, n in wanted.items()}


def without_unread(front: Graph | None, rest: Graph) -> tuple[Graph | None, Graph]:
    """Both without what the owner would send to nobody."""
    read = {id(i) for n in rest.nodes() for i in n.inputs} | {id(n) for n in rest.outputs}
    kept = [id(n) in read for n in rest.inputs]
    if front is None or all(kept):
        return front, rest
    names = {n.origin for n, keep in zip(rest.inputs, kept, strict=True) if not keep}
    left = [(o, n) for o, n in zip(front.outputs, front.output_names, strict=True) if n not in names]
    front = replace(
        front,
        outputs=tuple(o for o, _ in left),
        output_names=tuple(n for _, n in left),
        client_ops=((),) * len(left),
    )
    return front, replace(rest, inputs=tuple(n for n, keep in zip(rest.inputs, kept, strict=True) if keep))


def reached(node: Node) -> Iterator[Node]:
    """A node and all that it follows from."""
    return Graph((), (node,), ("",)).nodes()


def _meaning(node: Node, seen: dict[int, Hashable]) -> Hashable:
    """Equal for nodes that compute the same: a mask is made once for all layers."""
    if id(node) not in seen:
        attrs = [(k, v.tobytes() if isinstance(v, np.ndarray) else repr(v)) for k, v in sorted(node.attrs.items())]
        own = (node.origin if node.op == "Input" else "", node.op, node.shape, tuple(attrs))
        seen[id(node)] = (own, tuple(_meaning(i, seen) for i in node.inputs))
    return seen[id(node)]


def joined(front: Graph | None, rest: Graph) -> Graph:
    """The network with its front again."""
    if front is None:
        return rest
    before = dict(zip(front.output_names, front.outputs, strict=True))
    return replace(rest.rewrite({n: before[n.origin] for n in rest.inputs}), inputs=front.inputs)


def encrypted_inputs(front: Graph | None, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """What gets encrypted of a model's inputs (..., *shape): the same without a front.

    Raises:
        ShapeMismatch: an input is missing, unknown, has another shape, or holds numbers that no row of a table has.
    """
    if front is None:
        return dict(inputs)
    shapes = input_shapes(front)
    faults = [f"input {n!r} is missing" for n in shapes if n not in inputs]
    faults += [f"there is no input {n!r}" for n in inputs if n not in shapes]
    arrays = {n: np.asarray(inputs[n], np.float64) for n in shapes if n in inputs}
    for name, x in arrays.items():
        if x.shape[x.ndim - len(shapes[name]) :] != shapes[name]:
            faults.append(f"input {name!r} has shape {list(x.shape)}, needed is {list(shapes[name])}")
    faults = faults or numbers_outside(front, arrays)
    if faults:
        raise ShapeMismatch("the input does not fit the model", *faults)
    first = next(iter(shapes))
    lead = arrays[first].shape[: arrays[first].ndim - len(shapes[first])]
    batch = {n: x.reshape(prod(lead), *shapes[n]) for n, x in arrays.items()}
    return {n: v.reshape(*lead, *v.shape[1:]) for n, v in evaluate(front, batch).items()}


def strange_masks(graph: Graph) -> list[tuple[str, str, str, str]]:
    """Masks of whole numbers that do more than hide places: origin, operator, reason, advice."""
    found = []
    for node in graph.nodes():
        mask = summand(node.inputs[1]) if node.op == "InnerSoftmax" and len(node.inputs) > 1 else None
        if mask is None:
            continue
        values = np.unique(_tried(mask, graph.inputs))
        strange = values[(values != 0.0) & (values >= CLOSED)]
        if strange.size:
            said = ", ".join(f"{v:g}" for v in strange[:4])
            reason = f"a mask of unknown form: it adds {said} to scores; needed are 0, and less than {CLOSED:g} to hide"
            found.append((node.origin, "Softmax", reason, "a mask of 0 and -10000"))
    return found


def _tried(mask: Node, inputs: Sequence[Node]) -> FloatArray:
    """A mask for a few inputs: zeros, ones, and numbers at random."""
    rng = np.random.default_rng(0)
    graph = Graph(tuple(inputs), (mask,), ("mask",), ((),), "mask")
    rows = tables(graph)
    feeds = {}
    for node in inputs:
        end = rows.get(node.origin, 2)
        x = rng.integers(0, end, (8, *node.shape)).astype(np.float64)
        x[0], x[1] = 0.0, min(1, end - 1)
        feeds[node.origin] = x
    return evaluate(graph, feeds)["mask"]


def numbers_outside(graph: Graph, inputs: Mapping[str, FloatArray]) -> list[str]:
    """Inputs (..., *shape) that hold numbers of rows that their tables do not have, in words."""
    faults = []
    for name, rows in tables(graph).items():
        x = np.asarray(inputs[name], np.float64)
        if x.size and not ((x == np.rint(x)) & (x >= 0) & (x < rows)).all():
            faults.append(
                f"input {name!r} holds {x.min():g} to {x.max():g}, needed are whole numbers from 0 to {rows - 1}"
            )
    return faults


def tables(graph: Graph) -> dict[str, int]:
    """Rows of the table that an input is looked up in, per such input; the fewest where there are several."""
    found: dict[str, int] = {}
    for node in graph.nodes():
        source = node.inputs[0] if node.op == "Embedding" else None
        while source is not None and source.op in MOVES:
            source = source.inputs[0]
        if source is not None and source.op == "Input":
            rows = len(array(node, "table"))
            found[source.origin] = min(rows, found.get(source.origin, rows))
    return found
