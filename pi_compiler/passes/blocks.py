"""Blocks: which layers of a transformer belong together, so that reports can speak of them.

A block is attention (two products of encrypted matrices, the second one's left operand made of the first), what leads
into it alone, and what follows up to its last residual sum. Networks without such products have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pi_compiler.ir.graph import Graph, Node
from pi_compiler.ops import OPS
from pi_compiler.passes.compilation import Compilation

PARTS = ("norm", "queries, keys, values", "scores", "softmax", "product with values", "projection", "network")
"""Names of parts, in the order of a block that normalizes first."""
_MATRICES = ("Gemm", "MatMul", "Conv", "ConvTranspose")


def blocks(c: Compilation) -> Compilation:
    """Graph -> block and part by layer name."""
    found = parts_of(c.graph)
    return replace(c, blocks=found) if found else c


def parts_of(graph: Graph) -> dict[str, tuple[str, str]]:
    """(block, part) by layer name; layers outside of blocks are missing."""
    order = list(graph.nodes())
    cores = _cores(order)
    found: dict[str, tuple[str, str]] = {}
    readers = _readers(order)
    outputs = {id(n) for n in graph.outputs}
    behind = _behind(order, cores)
    taken: set[int] = set()
    for number, (first, second, between) in enumerate(cores):
        core = {id(first), id(second), *between}
        before = _leading_in(order, readers, outputs, core)
        taken |= core | before
        for node in order:
            part = _core_part(node, first, second) if id(node) in core else _lead_part(node)
            if id(node) in core | before and node.op != "Input":
                found[node.origin] = (f"block {number + 1}", part)
    for number in range(len(cores)):
        rest = [n for n in order if behind.get(id(n)) == number and id(n) not in taken]
        for node, part in _trailing(rest, last=number == len(cores) - 1):
            found.setdefault(node.origin, (f"block {number + 1}", part))
    return found


def _cores(order: list[Node]) -> list[tuple[Node, Node, set[int]]]:
    """Pairs of products, and what lies between them."""
    source: dict[int, Node | None] = {}
    cores = []
    for node in order:
        if node.op == "Dot":
            first = source.get(id(node.inputs[0]))
            if first is not None:
                cores.append((first, node, _between(first, node.inputs[0])))
            source[id(node)] = node
        else:
            found = [s for s in (source.get(id(i)) for i in node.inputs) if s is not None]
            source[id(node)] = found[0] if found and node.op not in _MATRICES else None
    return cores


def _between(first: Node, last: Node) -> set[int]:
    """What depends on one node and leads to another."""
    found: set[int] = set()

    def leads(node: Node) -> bool:
        if node is first:
            return True
        hit = any([leads(i) for i in node.inputs])
        if hit:
            found.add(id(node))
        return hit

    leads(last)
    return found


def _readers(order: list[Node]) -> dict[int, list[Node]]:
    readers: dict[int, list[Node]] = {id(n): [] for n in order}
    for node in order:
        for operand in node.inputs:
            readers[id(operand)].append(node)
    return readers


def _leading_in(order: list[Node], readers: Mapping[int, list[Node]], outputs: set[int], core: set[int]) -> set[int]:
    """What is read by a core alone."""
    found: set[int] = set()
    for node in reversed(order):
        uses = readers[id(node)]
        if id(node) not in core | outputs and uses and all(id(r) in core | found for r in uses):
            found.add(id(node))
    return found


def _behind(order: list[Node], cores: list[tuple[Node, Node, set[int]]]) -> dict[int, int]:
    """The last core before each node."""
    number = {id(second): n for n, (_, second, _) in enumerate(cores)}
    found: dict[int, int] = {}
    for node in order:
        before = [found[id(i)] for i in node.inputs if id(i) in found]
        if id(node) in number:
            before.append(number[id(node)])
        if before:
            found[id(node)] = max(before)
    return found


def _core_part(node: Node, first: Node, second: Node) -> str:
    if node is first:
        return "scores"
    return "product with values" if node is second else "softmax"


def _lead_part(node: Node) -> str:
    return "norm" if node.op == "LayerNorm" else "queries, keys, values"


def _trailing(rest: list[Node], *, last: bool) -> list[tuple[Node, str]]:
    """What follows attention, up to the last residual sum of the block and a normalization behind it."""
    sums = [i for i, n in enumerate(rest) if n.op == "Add" and len(n.inputs) > 1]
    if not sums:
        return [(n, "projection") for n in rest] if not last else []
    end = sums[-1]
    # A normalization that a residual sum reads, as in the original transformer, closes the block.
    norms = [i for i, n in enumerate(rest) if n.op == "LayerNorm"]
    closing = any(n in rest[s].inputs for s in sums for n in (rest[i] for i in norms))
    if closing and any(i > end for i in norms):
        end = next(i for i in norms if i > end)
    named, part = [], "projection"
    for place, node in enumerate(rest[: end + 1]):
        if place > sums[0] and node.op != "LayerNorm":
            part = "network"
        if OPS[node.op].kind == "nonlinear":
            part = "network"
        named.append((node, "norm" if node.op == "LayerNorm" else part))
    return named
