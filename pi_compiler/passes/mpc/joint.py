"""Functions of several elements on shares: maxima, softmax, layer normalization, lookups, products of matrices.

A maximum of n values is a tree. A node of radix r compares all its pairs in one stacked comparison and
multiplies the bits that say who beats whom, log2(r - 1) rounds: more bytes than pairs of two, fewer
rounds. The radix is the cheapest one for the network that the plan is made for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from pi_compiler.approx.poly import Approximant, Formula
from pi_compiler.cost_mpc import MpcCost, MpcPrices, Network, total_cost
from pi_compiler.errors import InternalError
from pi_compiler.ir.graph import Node
from pi_compiler.ir.mpc_program import MpcOp, MpcPort
from pi_compiler.ops.convolution import Windows
from pi_compiler.ops.joint import centers, visible
from pi_compiler.ops.op import array, integer, ints, number, optional_array
from pi_compiler.passes.mpc.build import Builder
from pi_compiler.passes.mpc.functions import Lazy, formula, function

_RADICES = (2, 4, 8, 16, 32)
_FEW, _MANY = 64, 512  # tree nodes that prices are taken from; whole words of bits


def joint(b: Builder, node: Node, operands: Sequence[int], deal: Deal) -> Lazy:
    """One node of ``JOINT``."""
    return JOINT[node.op](b, node, operands, deal)


def _max_pool(b: Builder, node: Node, operands: Sequence[int], deal: Deal) -> Lazy:
    shape = node.inputs[0].shape
    kernel, strides, dilations, pads = (ints(node, k) for k in ("kernel", "strides", "dilations", "pads"))
    windows = Windows(shape[2:], node.shape[2:], kernel, strides, dilations, pads)
    numbers = windows.numbers()
    # A tap in the padding stands for one inside, which changes no maximum.
    numbers = np.where(numbers >= 0, numbers, numbers.max(axis=1, keepdims=True))
    planes = np.arange(shape[0] * shape[1]).reshape(-1, 1) * prod(shape[2:])
    index = numbers.T[:, None, :] + planes
    rows = b.gather(operands, index, index.shape)
    return Lazy(b.reshape(maximum(b, rows, deal), node.shape))


def _reduce_max(b: Builder, node: Node, operands: Sequence[int], deal: Deal) -> Lazy:
    axes = ints(node, "axes")
    shape = node.inputs[0].shape
    rest = [a for a in range(len(shape)) if a not in axes]
    index = np.arange(prod(shape)).reshape(shape).transpose(*axes, *rest).reshape(prod(shape[a] for a in axes), -1)
    rows = b.gather(operands, index, index.shape)
    return Lazy(b.reshape(maximum(b, rows, deal), node.shape))


def _arg_max(b: Builder, node: Node, operands: Sequence[int], deal: Deal) -> Lazy:
    axis, shape = integer(node, "axis"), node.inputs[0].shape
    index = np.moveaxis(np.arange(prod(shape)).reshape(shape), axis, 0).reshape(shape[axis], -1)
    rows = b.gather(operands, index, index.shape)
    numbers = np.arange(float(shape[axis])).reshape(-1, 1)
    places = b.affine(rows, 0.0, np.broadcast_to(numbers, index.shape))
    joined = b.gather((rows, places), np.arange(2 * index.size), (2, *index.shape))
    found = _tournament(b, joined, deal)
    return Lazy(b.reshape(b.row(found, 1), node.shape))


def maximum(b: Builder, rows: int, deal: Deal) -> int:
    """Largest entry along the first axis."""
    return b.row(_tournament(b, b.reshape(rows, (1, *b.shape(rows))), deal), 0)


def _tournament(b: Builder, players: int, deal: Deal) -> int:
    """(k, n, *shape) -> (k, *shape): of the n the one whose first of k properties is largest; the first of equals."""
    while b.shape(players)[1] > 1:
        k, n, *shape = b.shape(players)
        radix = _radix(n, prod(shape), deal)
        groups, left = divmod(n, radix)
        size = prod(shape)
        # One entry at least stays over for a next node rather than for one of its own.
        index = np.arange(k * n * size).reshape(k, n, size)
        fought = index[:, : groups * radix].reshape(k, groups, radix, size).transpose(0, 2, 1, 3)
        stacked = b.gather((players,), fought, (k, radix, groups * size))
        winners = _duel(b, stacked) if radix == 2 else _melee(b, stacked)
        if left:
            rest = index[:, groups * radix :]
            offset = k * groups * size
            won = np.arange(offset).reshape(k, groups, size)
            kept = np.concatenate([won, rest + offset], axis=1)
            players = b.gather((winners, players), kept, (k, groups + left, *shape))
        else:
            players = b.reshape(winners, (k, groups, *shape))
    k, _, *shape = b.shape(players)
    return b.reshape(players, (k, *shape))


def _duel(b: Builder, pairs: int) -> int:
    """(k, 2, m) -> (k, m)."""
    k, _, m = b.shape(pairs)
    halves = np.arange(k * 2 * m).reshape(k, 2, m)
    first, second = (b.gather((pairs,), halves[:, i], (k, m)) for i in range(2))
    gap = b.sub(first, second)
    return b.sub(first, b.mul(b.negative(b.rows(gap, [0])), gap))


def _melee(b: Builder, groups: int) -> int:
    """(k, r, m) -> (k, m): all pairs at once, then products of who beats whom."""
    k, r, m = b.shape(groups)
    values = np.arange(k * r * m).reshape(k, r, m)[0]
    pairs = [(i, j) for i in range(r) for j in range(i + 1, r)]
    first = b.gather((groups,), values[[i for i, _ in pairs]], (len(pairs), m))
    second = b.gather((groups,), values[[j for _, j in pairs]], (len(pairs), m))
    less = b.negative(b.sub(first, second))
    beats = b.affine(less, -1.0, 1.0)
    both = b.gather((beats, less), np.arange(2 * len(pairs) * m), (2 * len(pairs), m))
    place = {pair: n for n, pair in enumerate(pairs)}
    row = [[place[i, j] if i < j else len(pairs) + place[j, i] for j in range(r) if j != i] for i in range(r)]
    bits = b.rows(both, [x for ones in row for x in ones])
    bits = b.reshape(bits, (r, r - 1, m))
    while b.shape(bits)[1] > 1:
        count = b.shape(bits)[1]
        at = np.arange(r * count * m).reshape(r, count, m)
        half = count // 2
        product = b.mul(
            b.gather((bits,), at[:, :half], (r, half, m)), b.gather((bits,), at[:, half : 2 * half], (r, half, m))
        )
        if count % 2:
            made = np.arange(r * half * m).reshape(r, half, m)
            kept = np.concatenate([made, at[:, -1:] + made.size], axis=1)
            bits = b.gather((product, bits), kept, (r, half + 1, m))
        else:
            bits = product
    chosen = b.mul(b.reshape(bits, (1, r, m)), groups)
    return b.sum(chosen, (1,), (k, m))


def _radix(n: int, size: int, deal: Deal) -> int:
    """The cheapest radix for the next node of a tree over n entries of a size, judged by the whole tree."""

    def seconds(r: int) -> float:
        total, count = 0.0, n
        while count > 1:
            here = min(r, count)
            groups = count // here
            total += deal.node(here, groups * size)
            count = groups + count % here
        return total

    return min((min(r, n) for r in _RADICES), key=seconds)


class Deal:
    """Prices of a plan's protocol on its network, for choosing between forms.

    Args:
        prices: of the protocol.
        network: where the parties meet.
    """

    def __init__(self, prices: MpcPrices, network: Network) -> None:
        self.prices, self.network = prices, network
        self._each: dict[int, tuple[float, float]] = {}

    def node(self, radix: int, count: int) -> float:
        """Seconds of so many tree nodes of a radix side by side."""
        if radix not in self._each:
            small, large = (self.network.seconds(self._cost(radix, m)) for m in (_FEW, _MANY))
            each = (large - small) / (_MANY - _FEW)
            self._each[radix] = (max(0.0, small - _FEW * each), each)
        fixed, each = self._each[radix]
        return fixed + count * each

    def _cost(self, radix: int, count: int) -> MpcCost:
        b = Builder(16, 16)
        b.at("node")
        x = b.input((1, radix, count))
        made = _duel(b, x) if radix == 2 else _melee(b, x)
        program = b.program({"x": MpcPort(x, (1,))}, {"y": MpcPort(b.reveal(made, 1), (1,))}, self.prices.protocol, {})
        return total_cost(program, self.prices, within=True)


def _softmax(b: Builder, node: Node, operands: Sequence[int], deal: Deal) -> Lazy:
    """Attention weights along an axis; ``method`` and fits were chosen when the node was replaced."""
    axis, shape = integer(node, "axis"), node.shape
    order = np.moveaxis(np.arange(prod(shape)).reshape(shape), axis, 0).reshape(shape[axis], -1)
    seen = visible(node)
    looked = order
    if seen is not None:
        places = np.take_along_axis(np.arange(prod(shape)).reshape(shape), seen, axis)
        looked = np.moveaxis(places, axis, 0).reshape(order.shape)
    rows = b.gather(operands, looked, order.shape)
    method = node.attrs["method"]
    if method == "max-exp":
        top = b.reshape(maximum(b, rows, deal), (1, order.shape[1]))
        weights = function(b, b.sub(rows, b.broadcast(top, order.shape)), _fit(node, "exponential")).made(b)
    elif method == "2quad":
        weights = b.square(b.affine(rows, 1.0, number(node, "shift")))
    elif method == "2relu":
        weights = b.affine(function(b, rows, _fit(node, "rectifier")).made(b), 1.0, number(node, "shift"))
    elif method == "power":
        weights = b.affine(rows, number(node, "gain"), 0.0)
        for _ in range(integer(node, "squarings")):
            weights = b.square(weights)
    else:
        raise InternalError(f"{node!r} has no softmax method")
    if (mask := optional_array(node, "mask")) is not None:
        flat = np.moveaxis(np.broadcast_to(mask, shape), axis, 0).reshape(order.shape)
        weights = b.affine(weights, flat, 0.0)
    total = b.affine(b.sum(weights, (0,), (1, order.shape[1])), 1.0, number(node, "extra"))
    inverse = formula(b, total, _formula(node, "inverse"))
    back = np.empty(order.size, np.int64)
    back[order.reshape(-1)] = np.arange(order.size)
    return Lazy(b.gather((b.mul(weights, inverse),), back, shape))


def _fit(node: Node, name: str) -> Approximant:
    found = node.attrs[name]
    if not isinstance(found, Approximant):
        raise InternalError(f"{node!r} has no fit {name!r}")
    return found


def _formula(node: Node, name: str) -> Formula:
    found = node.attrs[name]
    if not isinstance(found, Formula):
        raise InternalError(f"{node!r} has no formula {name!r}")
    return found


def _layer_norm(b: Builder, node: Node, operands: Sequence[int], deal: Deal) -> Lazy:
    """``(x - mean) * rsqrt(variance + eps) * scale + bias``; scale and bias go into the next layer."""
    axis, shape = integer(node, "axis"), node.shape
    size = prod(shape[axis:])
    flat = b.reshape(operands[0], (prod(shape[:axis]), size))
    rows = b.shape(flat)[0]
    centered = flat
    if centers(node):
        total = b.sum(flat, (1,), (rows, 1))
        centered = b.sub(flat, b.broadcast(b.affine(total, 1.0 / size, 0.0), (rows, size)))
    variance = b.affine(b.sum(b.square(centered), (1,), (rows, 1)), 1.0 / size, number(node, "epsilon"))
    inverse = formula(b, variance, _formula(node, "inverse"))
    scale, bias = array(node, "scale"), optional_array(node, "bias")
    normal = b.reshape(b.mul(centered, inverse), shape)
    return Lazy(normal, scale, np.zeros(()) if bias is None else bias, secret=True)


def _dot(b: Builder, node: Node, operands: Sequence[int], deal: Deal) -> Lazy:
    return Lazy(b.dot(*operands))


def _embedding(b: Builder, node: Node, operands: Sequence[int], deal: Deal) -> Lazy:
    """One-hot rows times the table."""
    return Lazy(b.weighted(MpcOp.MATMUL, operands[0], array(node, "table"), None, node.shape))


def _less(b: Builder, node: Node, operands: Sequence[int], deal: Deal) -> Lazy:
    """X < y as 0 or 1; with one operand, x < bound."""
    x = operands[0]
    gap = b.sub(x, operands[1]) if len(operands) > 1 else b.affine(x, 1.0, -array(node, "bound"))
    return Lazy(b.negative(gap))


def _maximum(b: Builder, node: Node, operands: Sequence[int], deal: Deal) -> Lazy:
    """The larger of two values, element by element."""
    gap = b.sub(*operands)
    return Lazy(b.sub(operands[0], b.mul(b.negative(gap), gap)))


JOINT: dict[str, Callable[[Builder, Node, Sequence[int], Deal], Lazy]] = {
    "MaxPool": _max_pool,
    "ReduceMax": _reduce_max,
    "InnerArgMax": _arg_max,
    "InnerSoftmax": _softmax,
    "LayerNorm": _layer_norm,
    "Dot": _dot,
    "Embedding": _embedding,
    "IsLess": _less,
    "Maximum": _maximum,
}
"""Operators that are neither linear nor functions of one element."""
