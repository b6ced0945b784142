"""Softmax and layer normalization, written as sums, products and functions of one variable.

Three kinds: the functions themselves (``exponential_softmax``, ``normalize_square``, ``layer_norm``), softmax by the
mean and the variance of its scores (``cgf_softmax``), and weights of attention to be trained in: Power-Softmax
(Zimerman et al., AISTATS 2026, arXiv 2410.09457, length-agnostic form), 2Quad (MPCFormer, ICLR 2023), and functions of
each score over the length. Those that divide do it by means, so that a divisor's interval does not depend on the
length; hidden places are multiplied by zero.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np

from pi_compiler.ir.graph import FloatArray, Node
from pi_compiler.ops.elementwise import activation, multiply
from pi_compiler.ops.linear import affine
from pi_compiler.ops.op import array, integer, number, optional_array, same
from pi_compiler.ops.shaping import expand

__all__ = [
    "cgf_softmax",
    "exponential_softmax",
    "layer_norm",
    "normalize_square",
    "over_length",
    "power_softmax",
    "quadratic_weights",
    "shares_of_open",
    "split_exponential",
    "two_quad",
]

Bounds: TypeAlias = tuple[float, float]
_SLACK = 1.0625
"""How far the mean of approximated weights may be from 1, squared."""


def power_softmax(x: Node, node: Node, power: int, eps: float, gain: float = 1.0) -> Node:
    """``s^p / (L mean(s^p) + L eps)`` along the axis of a softmax, s = gain x.

    Args:
        x: the scores.
        node: the ``InnerSoftmax`` that it replaces: axis, mask and name.
        power: p, even.
        eps: added to the mean, positive: the least divisor.
        gain: factor of the scores, which changes nothing but what eps is relative to.
    """
    x = affine(x, gain, 0.0, node.origin)
    name = f"{node.origin}/power"
    powered = same(x, "Square", name) if power == 2 else activation("Pow", x, name, exponent=float(power))
    return _shares(_open(powered, node), node, eps)


def two_quad(x: Node, node: Node, shift: float, eps: float = 0.0) -> Node:
    """``(x + c)² / sum (x + c)²`` along the axis of a softmax; see ``power_softmax``."""
    squares = same(affine(x, 1.0, shift, node.origin), "Square", f"{node.origin}/power")
    return _shares(_open(squares, node), node, eps)


def quadratic_weights(x: Node, node: Node, coef: FloatArray) -> Node:
    """``c0 + c1 x + c2 x²``, coefficients with the length divided out; nothing is divided by."""
    domain = np.array([-1.0, 1.0])
    return _open(same(x, "Poly", node.origin, basis="power", coef=coef, domain=domain), node)


def exponential_softmax(x: Node, node: Node, shift: float) -> Node:
    """Softmax itself: ``exp(x - shift)`` divided by its sum; the shift keeps exponentials small."""
    powered = activation("Exp", affine(x, 1.0, -shift, node.origin), f"{node.origin}/exp")
    return _shares(_open(powered, node), node, 0.0)


def normalize_square(x: Node, node: Node, shift: float, rounds: int) -> Node:
    """Softmax itself: of the scores divided by 2^rounds, then as often squared and normalized again.

    softmax(2 x) is softmax(x)², normalized (Cho et al., CCS 2024): the exponential sees a narrow interval, and means of
    squares of weights whose mean is 1 lie between 1 and the length.
    """
    narrow = affine(x, 2.0**-rounds, -shift * 2.0**-rounds, node.origin)
    powered = activation("Exp", narrow, f"{node.origin}/exp")
    weights = _shares(_open(powered, node), node, 0.0, whole=True, full=True)
    length = float(node.shape[integer(node, "axis")])
    for turn in range(1, rounds + 1):
        squares = same(weights, "Square", f"{node.origin}/square{turn}")
        bounds = (1.0 / _SLACK, length * _SLACK)
        weights = _shares(squares, node, 0.0, whole=turn < rounds, suffix=str(turn), bounds=bounds)
    return weights


def cgf_softmax(x: Node, node: Node, peak: float, shares: Node | None) -> Node:
    """``exp(s - mu - sigma² / 2) / n``: softmax with the logarithm of its sum expanded to the second cumulant.

    The logarithm of mean exp(s) is mu + sigma² / 2 for normal scores (arXiv 2602.01621); mu, sigma² and n are those of
    a row's open places. Neither a maximum nor a division; weights sum to 1 as far as the expansion holds.

    Args:
        x: the scores.
        node: the ``InnerSoftmax`` that it replaces: axis, mask and name.
        peak: largest weight to expect relative to its row's mean weight: what the exponential's error is relative to.
        shares: ``shares_of_open`` where masks are inputs, else None.
    """
    axis, name, mask = integer(node, "axis"), node.origin, optional_array(node, "mask")
    length = node.shape[axis]
    opened = None if mask is None else mask / np.broadcast_to(mask, node.shape).sum(axis=axis, keepdims=True)

    def shared(values: Node, part: str) -> Node:
        if shares is not None:
            return multiply(values, expand(shares, node.shape, part), part)
        return affine(values, 1.0 / length if opened is None else opened, 0.0, part)

    def mean(values: Node, part: str) -> Node:
        shape = tuple(1 if i == axis else n for i, n in enumerate(node.shape))
        return Node("ReduceSum", (shared(values, part),), shape, {"axes": (axis,), "keepdims": 1}, part)

    # Moments rather than centered scores: sums over an axis and values per row, nothing that spreads over a row again.
    first, second = mean(x, f"{name}/mean"), mean(same(x, "Square", f"{name}/square"), f"{name}/variance")
    variance = Node("Sub", (second, same(first, "Square", f"{name}/variance")), first.shape, {}, f"{name}/variance")
    parts = (first, affine(variance, 0.5, np.log(peak), f"{name}/variance"))
    row = expand(Node("Add", parts, first.shape, {}, f"{name}/cumulants"), node.shape, f"{name}/cumulants")
    powered = activation("Exp", Node("Sub", (x, row), node.shape, {}, f"{name}/exp"), f"{name}/exp")
    return affine(shared(powered, name), peak, 0.0, name)


def split_exponential(node: Node, high: float, low: float) -> Node:
    """``exp(x - r)`` as ``exp(x - high) exp(low - r)`` times a constant, r being the same along an axis.

    Args:
        node: the exponential, of a difference whose second operand is expanded.
        high: least upper bound of x.
        low: largest lower bound of r.
    """
    x, spread = node.inputs[0].inputs
    row = affine(spread.inputs[0], -1.0, low, f"{node.origin}/row")
    factor = expand(activation("Exp", row, f"{node.origin}/row"), node.shape, f"{node.origin}/row")
    whole = multiply(activation("Exp", affine(x, 1.0, -high, node.origin), node.origin), factor, node.origin)
    return affine(whole, np.exp(high - low), 0.0, node.origin)


def shares_of_open(node: Node) -> Node | None:
    """Open places of a softmax over how many its row has, zero elsewhere; None where no mask is an input.

    It follows from masks alone, so their owner can compute it. A row without an open place has shares of zero.
    """
    if len(node.inputs) < 2:
        return None
    name, mask = f"{node.origin}/shares", optional_array(node, "mask")
    places = node.inputs[1]
    for more in node.inputs[2:]:
        places = multiply(places, more, name)
    places = places if mask is None else affine(places, mask, 0.0, name)
    axis = integer(node, "axis") - len(node.shape) + len(places.shape)
    length = node.shape[integer(node, "axis")]
    places = expand(places, tuple(length if i == axis else n for i, n in enumerate(places.shape)), name)
    shape = tuple(1 if i == axis else n for i, n in enumerate(places.shape))
    count = Node("ReduceSum", (places,), shape, {"axes": (axis,), "keepdims": 1}, name)
    none = same(count, "IsLess", name, bound=np.asarray(0.5))
    inverse = activation("Reciprocal", Node("Add", (count, none), shape, {}, name), name)
    return multiply(places, expand(inverse, places.shape, name), name)


def over_length(x: Node, node: Node, form: str) -> Node:
    """``relu(s) / L``, ``sigmoid(s - log L)``, ``s² / L`` or ``s / L``: nothing secret is divided by.

    Wortsman et al. (arXiv 2309.08586) for ReLU, Ramapuram et al. (arXiv 2409.04431) for the sigmoid.
    """
    length = float(node.shape[integer(node, "axis")])
    name = f"{node.origin}/{form}"
    if form == "sigmoid":
        return _open(activation("Sigmoid", affine(x, 1.0, -np.log(length), name), name), node)
    function = {"relu": "Relu", "square": "Square"}.get(form)
    return affine(_open(x if function is None else same(x, function, name), node), 1.0 / length, 0.0, node.origin)


def _open(x: Node, node: Node) -> Node:
    """Hidden places become zero."""
    mask = optional_array(node, "mask")
    x = x if mask is None else affine(x, mask, 0.0, node.origin)
    for places in node.inputs[1:]:
        x = multiply(x, expand(places, node.shape, f"{node.origin}/mask"), f"{node.origin}/mask")
    return x


def _shares(
    powered: Node,
    node: Node,
    eps: float,
    *,
    whole: bool = False,
    full: bool = False,
    suffix: str = "",
    bounds: Bounds | None = None,
) -> Node:
    """Divided by the mean plus eps, and by the length unless it is to stay ``whole``.

    Args:
        powered: what is divided.
        node: the softmax.
        eps: added to the mean.
        whole: whether weights have the mean 1 instead of the sum 1.
        full: whether what is divided keeps its full size in slots, because it is squared later; that takes a level.
        suffix: of layer names.
        bounds: what the mean lies between whatever the data.
    """
    axis = integer(node, "axis")
    shape = tuple(1 if i == axis else n for i, n in enumerate(node.shape))
    mean_name, name = f"{node.origin}/mean{suffix}", f"{node.origin}/inverse{suffix}"
    mean = Node("ReduceMean", (powered,), shape, {"axes": (axis,), "keepdims": 1}, mean_name)
    inverse = activation("Reciprocal", affine(mean, 1.0, eps, mean_name), name)
    told = ({} if bounds is None else {"bounds": bounds}) | ({"full": 1} if full else {})
    inverse = replace(inverse, attrs={**inverse.attrs, **told})
    share = inverse if whole else affine(inverse, 1.0 / node.shape[axis], 0.0, name)
    return multiply(powered, expand(share, node.shape, node.origin), node.origin)


def layer_norm(x: Node, node: Node) -> Node:
    """``(x - mean) / sqrt(variance + eps) * scale + bias``, or without the mean where the node does not center."""
    axes = tuple(range(integer(node, "axis"), len(node.shape)))
    shape = tuple(1 if i in axes else n for i, n in enumerate(node.shape))
    attrs = {"axes": axes, "keepdims": 1}
    if "center" not in node.attrs or integer(node, "center"):
        mean = Node("ReduceMean", (x,), shape, attrs, f"{node.origin}/mean")
        x = Node("Sub", (x, expand(mean, node.shape, f"{node.origin}/mean")), node.shape, {}, f"{node.origin}/center")
    squares = same(x, "Square", f"{node.origin}/square")
    variance = Node("ReduceMean", (squares,), shape, attrs, f"{node.origin}/variance")
    variance = affine(variance, 1.0, number(node, "epsilon"), f"{node.origin}/variance")
    inverse = activation("InverseSqrt", variance, f"{node.origin}/inverse")
    normal = multiply(x, expand(inverse, node.shape, node.origin), node.origin)
    bias = optional_array(node, "bias")
    return affine(normal, array(node, "scale"), 0.0 if bias is None else bias, node.origin)
