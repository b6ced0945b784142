"""Other channel counts for a graph: which tensors share their channels, and weights for the new counts.

Fewer channels keep those with the largest weights; more repeat channels and divide what their users multiply
them with, so that the function stays the same (Net2Net, Chen et al., ICLR 2016, section 2.2), up to a small
disturbance of the copies that lets them part in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from pi_compiler.errors import ModelError
from pi_compiler.ir.graph import Attr, FloatArray, Graph, IntArray, Node
from pi_compiler.models.training.operations import FUNCTIONS
from pi_compiler.ops.op import array, integer, ints, optional_array

__all__ = ["Channels", "with_widths"]

NOISE = 1e-2
_SAME = frozenset(FUNCTIONS) - {"PRelu"} | {"AveragePool"}
_SPATIAL = frozenset({"Affine", "Poly", "Slice", "Pad", "ReduceMean", "ReduceSum"})


@dataclass(slots=True)
class Channels:
    """Which nodes of a graph share their channels.

    Attributes:
        graph: the graph.
        leader: node -> the node that stands for its group.
        fixed: leaders whose number of channels must stay, such as inputs and outputs.
        each: node -> elements of its axis 1 per channel, more than one after flattening.
        padded: leaders of channel-padded results -> (operand, channels in front, channels behind).
    """

    graph: Graph
    leader: dict[Node, Node] = field(default_factory=dict)
    fixed: set[Node] = field(default_factory=set)
    each: dict[Node, int] = field(default_factory=dict)
    padded: dict[Node, tuple[Node, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.graph.nodes():
            self.leader[node], self.each[node] = node, 1
            self._join(node)
        self.fixed = {self.find(n) for n in (*self.fixed, *self.graph.inputs, *self.graph.outputs)}
        self.padded = {self.find(n): (self.find(x), a, b) for n, (x, a, b) in self.padded.items()}

    def find(self, node: Node) -> Node:
        """The leader of a node's group."""
        while self.leader[node] is not node:
            node = self.leader[node]
        return node

    def widths(self) -> dict[Node, int]:
        """Channels of every group that may have others, in order of its first node."""
        groups: dict[Node, int] = {}
        for node in self.graph.nodes():
            leader = self.find(node)
            if leader not in self.fixed:
                groups.setdefault(leader, leader.shape[1])
        return groups

    def padded_here(self, node: Node) -> bool:
        """Whether this node pads channels."""
        pads = ints(node, "pads")
        return len(node.shape) > 1 and bool(pads[1] or pads[1 + len(node.shape)])

    def _join(self, node: Node) -> None:
        if node.op == "Input" or self._starts(node):
            return
        x = node.inputs[0]
        if node.op in _SAME or (node.op in _SPATIAL and _keeps_channels(node, x)):
            self._union(node, x)
        elif node.op in ("Add", "Sub", "Mul"):
            for i in node.inputs:
                self._union(node, i)
        elif node.op == "Pad" and len(node.shape) > 1:
            self.padded[node] = (x, ints(node, "pads")[1], ints(node, "pads")[1 + len(node.shape)])
        elif node.op == "Reshape" and len(node.shape) == 2 and len(x.shape) > 1 and node.shape[0] == x.shape[0] == 1:
            self._union(node, x)
            self.each[node] = self.each[x] * node.shape[1] // x.shape[1]
        else:
            self.fixed |= {node, *node.inputs}

    def _starts(self, node: Node) -> bool:
        """Whether a layer gives the node channels of its own."""
        if node.op == "Conv" and integer(node, "group") != 1:
            depthwise = integer(node, "group") == node.shape[1] == node.inputs[0].shape[1]
            if depthwise:
                self._union(node, node.inputs[0])
            else:
                self.fixed |= {node, node.inputs[0]}
            return True
        return node.op == "Conv" or (node.op == "Gemm" and len(node.shape) == 2)

    def _union(self, a: Node, b: Node) -> None:
        self.leader[self.find(a)] = self.find(b)
        self.each[a] = self.each[b]


def _keeps_channels(node: Node, x: Node) -> bool:
    """Whether channel c of the result comes from channel c of the operand."""
    if node.op == "Slice" and (ints(node, "starts")[1], ints(node, "steps")[1]) != (0, 1):
        return False
    if node.op == "Pad" and (ints(node, "pads")[1] or ints(node, "pads")[1 + len(node.shape)]):
        return False
    return len(node.shape) > 1 and node.shape[:2] == x.shape[:2]


def with_widths(graph: Graph, widths: Mapping[Node, int], seed: int, noise: float = NOISE) -> Graph:
    """The graph with other channel counts.

    Args:
        graph: the network, trained or not.
        widths: leaders of groups (``Channels.widths``) -> channels; groups that are not here keep theirs.
        seed: of the disturbance.
        noise: its deviation, relative to the weight.

    Raises:
        ModelError: a shortcut that pads channels would have to drop some, or a group cannot change.
    """
    channels = Channels(graph)
    rng = _Noise(np.random.default_rng(seed), noise)
    faults = [f"'{n.origin}' cannot have other channels" for n in widths if n in channels.fixed]
    faults += [f"'{n.origin}' needs a channel, not {w}" for n, w in widths.items() if w < 1]
    if faults:
        raise ModelError("channels cannot be changed so", *faults)
    picks = _picks(channels, widths)
    new: dict[Node, Node] = {}
    for node in graph.nodes():
        pick = picks[channels.find(node)]
        operands = [picks[channels.find(i)] for i in node.inputs]
        inputs = tuple(new[i] for i in node.inputs)
        new[node] = _rebuilt(node, inputs, pick, operands, channels, rng)
    return replace(
        graph,
        inputs=tuple(new[n] for n in graph.inputs),
        outputs=tuple(new[n] for n in graph.outputs),
    )


def _picks(channels: Channels, widths: Mapping[Node, int]) -> dict[Node, IntArray]:
    """Per group the old channel that each new one comes from."""
    importance: dict[Node, FloatArray] = {}
    for node in channels.graph.nodes():
        if node.op in ("Conv", "Gemm"):
            weight = np.abs(array(node, "weight"))
            size = weight.sum(0) if node.op == "Gemm" else weight.reshape(len(weight), -1).sum(1)
            leader = channels.find(node)
            if len(size) == (leader.shape[1] if len(leader.shape) > 1 else -1):
                importance[leader] = importance.get(leader, np.zeros(len(size))) + size
    picks: dict[Node, IntArray] = {}

    def pick(leader: Node) -> IntArray:
        if leader not in picks:
            old = leader.shape[1] if len(leader.shape) > 1 else 1
            wanted = widths.get(leader, old)
            if leader in channels.padded:
                picks[leader] = _around(leader, wanted, pick, channels)
            else:
                picks[leader] = _chosen(importance.get(leader, np.ones(old)), wanted)
        return picks[leader]

    for node in channels.graph.nodes():
        pick(channels.find(node))
    return picks


def _chosen(importance: FloatArray, wanted: int) -> IntArray:
    """The most important channels in their order; all of them, again and again, where more are wanted."""
    old = len(importance)
    if wanted <= old:
        return np.sort(np.argsort(-importance, kind="stable")[:wanted])
    return np.arange(wanted) % old


def _around(leader: Node, wanted: int, pick: Callable[[Node], IntArray], channels: Channels) -> IntArray:
    """A padded group's channels: the operand's in the middle, others in front and behind."""
    x, front, behind = channels.padded[leader]
    middle = front + pick(x)
    extra = wanted - len(middle)
    if extra < 0:
        raise ModelError(
            f"the shortcut to '{leader.origin}' brings {len(middle)} channels, {wanted} are wanted",
            hint="at least as many channels behind the shortcut as before it",
        )
    old = leader.shape[1]
    others = np.concatenate([np.arange(front), np.arange(old - behind, old)])
    if not len(others) and extra:
        raise ModelError(f"'{leader.origin}' has no padded channels to have more of")
    taken = others[np.arange(extra) % max(1, len(others))]
    cut = _in_front(front, behind, extra)
    return np.concatenate([taken[:cut], middle, taken[cut:]]).astype(np.int64)


def _in_front(front: int, behind: int, extra: int) -> int:
    """How many of ``extra`` padded channels go in front: as before where their number stays, else half."""
    return front if extra == front + behind else extra // 2


@dataclass(frozen=True, slots=True)
class _Noise:
    """Disturbs copies of channels."""

    rng: np.random.Generator
    size: float

    def layer(self, node: Node, weight: FloatArray, pick: IntArray, axis: int) -> dict[str, Attr]:
        """Weight and bias of the picked channels, which run along an axis of the weight."""
        first = np.zeros(len(pick), dtype=bool)
        first[np.unique(pick, return_index=True)[1]] = True
        shape = tuple(len(pick) if i == axis else 1 for i in range(weight.ndim))
        copied = np.where(first, 0.0, self.size).reshape(shape)
        found: dict[str, Attr] = {"weight": weight * (1.0 + copied * self.rng.standard_normal(weight.shape))}
        bias = optional_array(node, "bias")
        return found if bias is None else {**found, "bias": bias[pick] if bias.ndim == 1 else bias[..., pick]}


def _shared(weight: FloatArray, axis: int, pick: IntArray, each: int) -> FloatArray:
    """Rows of the picked channels, divided by how often each was picked."""
    share = 1.0 / np.bincount(pick)[pick]
    rows = (pick[:, None] * each + np.arange(each)).reshape(-1)
    shape = tuple(len(rows) if i == axis else 1 for i in range(weight.ndim))
    divided: FloatArray = np.take(weight, rows, axis) * np.repeat(share, each).reshape(shape)
    return divided


def _rebuilt(
    node: Node, inputs: tuple[Node, ...], pick: IntArray, operands: list[IntArray], channels: Channels, noise: _Noise
) -> Node:
    attrs: dict[str, Attr] = dict(node.attrs)
    if node.op == "Conv" and integer(node, "group") == 1:
        weight = _shared(array(node, "weight")[pick], 1, operands[0], 1)
        attrs |= noise.layer(node, weight, pick, 0)
    elif node.op == "Conv" and channels.find(node) not in channels.fixed:
        attrs |= {"group": len(pick), **noise.layer(node, array(node, "weight")[pick], pick, 0)}
    elif node.op == "Gemm" and len(node.shape) == 2:
        weight = _shared(array(node, "weight")[:, pick], 0, operands[0], channels.each[node.inputs[0]])
        attrs |= noise.layer(node, weight, pick, 1)
    elif node.op in ("Affine", "Poly") and len(node.shape) > 1:
        for name in ("scale", "shift") if node.op == "Affine" else ("coef", "domain"):
            values = array(node, name)
            axis = 1 if node.op == "Poly" else values.ndim - len(node.shape) + 1
            if 0 <= axis < values.ndim and values.shape[axis] == node.shape[1]:
                attrs[name] = np.take(values, pick, axis)
    elif node.op == "Pad" and channels.padded_here(node):
        pads, rank = list(ints(node, "pads")), len(node.shape)
        extra = len(pick) - inputs[0].shape[1]
        cut = _in_front(pads[1], pads[1 + rank], extra)
        pads[1], pads[1 + rank] = cut, extra - cut
        attrs["pads"] = tuple(pads)
    shape = node.shape
    if len(shape) > 1 and channels.find(node) not in channels.fixed:
        shape = (shape[0], len(pick) * channels.each[node], *shape[2:])
    return replace(node, inputs=inputs, attrs=attrs, shape=shape)
