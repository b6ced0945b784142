"""Lookup: numbers that only choose rows of constant tables are looked up by the client, before it encrypts.

Encrypted, a number would have to become a one-hot row of the whole table. All tables that one input is looked up in
become one, side by side; the program's input is what the client finds there. The tables are thus known to the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pi_compiler.errors import UnsupportedOperator
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ir.lookups import Lookup
from pi_compiler.ops.op import array
from pi_compiler.ops.shaping import gather
from pi_compiler.passes.compilation import Compilation


def lookup(c: Compilation) -> Compilation:
    """Graph and samples -> graph and samples behind the client's lookups.

    Raises:
        UnsupportedOperator: an input is looked up and read otherwise too, or in tables of several lengths.
        ShapeMismatch: samples hold numbers that no row has.
    """
    readers: dict[str, list[Node]] = {}
    others: set[str] = set()
    for node in c.graph.nodes():
        for operand in node.inputs:
            if node.op == "Embedding":
                readers.setdefault(operand.origin, []).append(node)
            elif operand.op == "Input":
                others.add(operand.origin)
    if not readers:
        return c
    _check(readers, others)
    found = {i.origin: _joined(readers[i.origin], i) for i in c.graph.inputs if i.origin in readers}
    samples: dict[str, FloatArray] = dict(c.calibration)
    samples |= {name: one.of(samples[name], name) for name, one in found.items()}
    notes = tuple(
        f"the client looks up input {name!r} in a table of {len(one.table)} rows of {one.table.shape[1]} numbers "
        "before it encrypts: it needs the table, which is in the compiled model"
        for name, one in found.items()
    )
    graph = _behind(c.graph, readers, found)
    return replace(c, graph=graph, calibration=samples, lookups=found, notes=(*c.notes, *notes))


def with_lookups(graph: Graph, lookups: Mapping[str, Lookup]) -> Graph:
    """A graph that takes numbers, from one that takes what was looked up by them."""
    if not lookups:
        return graph
    inputs, change = [], {}
    for node in graph.inputs:
        found = lookups.get(node.origin)
        if found is None:
            inputs.append(node)
            continue
        numbers = Node("Input", (), found.shape, {}, node.origin)
        inputs.append(numbers)
        change[node] = Node("Embedding", (numbers,), node.shape, {"table": found.table}, f"{node.origin}/lookup")
    return replace(graph.rewrite(change), inputs=tuple(inputs))


def _check(readers: Mapping[str, list[Node]], others: set[str]) -> None:
    faults = []
    for name, nodes in readers.items():
        rows = {len(array(n, "table")) for n in nodes}
        if name in others:
            faults.append(f"input {name!r} is looked up in a table and read by other layers too")
        if len(rows) > 1:
            faults.append(f"input {name!r} is looked up in tables of {sorted(rows)} rows")
    if faults:
        raise UnsupportedOperator(
            "what is looked up cannot be prepared by the client", *faults, hint="one input for each table length"
        )


def _joined(nodes: list[Node], numbers: Node) -> Lookup:
    return Lookup(np.concatenate([array(n, "table") for n in nodes], axis=1), numbers.shape)


def _behind(graph: Graph, readers: Mapping[str, list[Node]], found: Mapping[str, Lookup]) -> Graph:
    change: dict[Node, Node] = {}
    inputs = []
    for node in graph.inputs:
        if node.origin not in found:
            inputs.append(node)
            continue
        wide = Node("Input", (), (*node.shape, found[node.origin].table.shape[1]), {}, node.origin)
        inputs.append(wide)
        start = 0
        for reader in readers[node.origin]:
            width = reader.shape[-1]
            change[reader] = gather(wide, np.arange(start, start + width), len(wide.shape) - 1, reader.origin)
            start += width
    return replace(_rebuilt(graph, change), inputs=tuple(inputs))


def _rebuilt(graph: Graph, change: Mapping[Node, Node]) -> Graph:
    """Like ``Graph.rewrite``; what is replaced may become an operand of its own, or new nodes."""
    new: dict[int, Node] = {}
    for node in graph.nodes():
        target = change.get(node)
        if target is None:
            operands = tuple(new[id(i)] for i in node.inputs)
            same = all(a is b for a, b in zip(operands, node.inputs, strict=True))
            target = node if same else replace(node, inputs=operands)
        new[id(node)] = target
    return replace(graph, outputs=tuple(new[id(n)] for n in graph.outputs))
