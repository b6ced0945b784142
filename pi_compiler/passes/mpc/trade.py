"""Trade: which comparisons become polynomials, by the protocol's own prices, under a budget the user sets.

A square costs far less than a comparison between two parties with a dealer, and more than one where
multiplying is dear (Cheetah), so a count of ReLUs decides nothing. Every layer is priced both ways on the
plan's network; layers are replaced in the order of seconds saved per error made, as many as the budget
allows (``max_accuracy_drop``) or needs (``max_latency``). Answers are compared on calibration samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.poly import Poly
from pi_compiler.cost_mpc import network_of, total_cost
from pi_compiler.errors import BudgetError
from pi_compiler.ir.graph import FloatArray, Node
from pi_compiler.ops import OPS
from pi_compiler.options import Activation
from pi_compiler.passes.approximate import choose
from pi_compiler.passes.compilation import Compilation, Precision
from pi_compiler.passes.mpc.joint import Deal
from pi_compiler.passes.mpc.protect import Protect, price
from pi_compiler.passes.mpc.share import exact_pieces, share

_QUADRATIC = Activation("quadratic")


@dataclass(frozen=True, slots=True)
class _Offer:
    """A layer, the seconds that a square in its place saves, and the error that it makes."""

    origin: str
    saving: float
    error: float


def trade(c: Compilation) -> Compilation:
    """Options -> options that name the layers to replace; nothing without a budget.

    Raises:
        BudgetError: squares in every layer do not bring the plan below ``max_latency``.
    """
    if c.options.max_latency is None and c.options.max_accuracy_drop is None:
        return c
    offers = _offers(c)
    latency, drop = c.options.max_latency, c.options.max_accuracy_drop
    allowed = len(offers) if drop is None else _allowed(c, offers, drop)
    if latency is None:
        return _with(c, offers, allowed)
    needed = _needed(c, offers, latency)
    if needed > allowed:
        raise BudgetError(
            f"max_latency {latency:g} s needs {needed} layers to be squares",
            f"max_accuracy_drop {drop:g} allows {allowed}",
            hint="retraining with fewer ReLUs, or a larger budget",
        )
    return _with(c, offers, needed)


def _offers(c: Compilation) -> list[_Offer]:
    """Layers that are cheaper as squares, those first that save most seconds per error."""
    prices = Compilation.require(c.mpc_prices, "trade", "prepare")
    ranges = Compilation.require(c.ranges, "trade", "calibrate")
    network = network_of(c.options.network)
    found = []
    for node in c.graph.nodes():
        if node.op == "Input" or OPS[node.op].kind != "nonlinear" or node.origin in c.options.activations:
            continue
        pieces = exact_pieces(node)
        if pieces is None:
            continue
        try:
            fit = choose(node, ranges.of(node.inputs[0]), _QUADRATIC, c.options).fit
        except ApproximationError:
            continue
        if not isinstance(fit.approx, Poly):
            continue
        exact, square = (price(p, node.size, prices, network) for p in (pieces, fit.approx))
        error = fit.certificate.weighted_error / max(_spread(c, node), 1e-12)
        if exact > square:
            found.append(_Offer(node.origin, exact - square, max(error, 1e-9)))
    return sorted(found, key=lambda o: o.error / o.saving)


def _spread(c: Compilation, node: Node) -> float:
    """How far the layer's results differ from each other: errors count relative to that."""
    return Compilation.require(c.ranges, "trade", "calibrate").of(node).std


def _needed(c: Compilation, offers: Sequence[_Offer], latency: float) -> int:
    """How many layers have to go so that the plan stays below a latency."""
    prices = Compilation.require(c.mpc_prices, "trade", "prepare")
    network = network_of(c.options.network)
    walk = Protect(c, prices)
    program = share(
        walk.run(), Precision(16, 16), prices.protocol, Deal(prices, network), private=not c.options.public_weights
    )
    seconds = network.seconds(total_cost(program, prices))
    for count in range(len(offers) + 1):
        if seconds - sum(o.saving for o in offers[:count]) <= latency:
            return count
    least = seconds - sum(o.saving for o in offers)
    raise BudgetError(
        f"no plan stays below {latency:g} s on network {network.name}",
        f"with every ReLU exact it takes {seconds:.3g} s, with all that help as squares {least:.3g} s",
        hint="a faster network, another protocol, or fewer layers",
    )


def _allowed(c: Compilation, offers: Sequence[_Offer], drop: float) -> int:
    """The most layers, in order, that cost at most so many answers; found by halving."""
    original = _answers(c, {})
    low, high = 0, len(offers)
    while low < high:
        middle = (low + high + 1) // 2
        if 1.0 - _agreement(c, offers, middle, original) <= drop:
            low = middle
        else:
            high = middle - 1
    return low


def _agreement(c: Compilation, offers: Sequence[_Offer], count: int, original: FloatArray) -> float:
    found = _answers(c, {o.origin: _QUADRATIC for o in offers[:count]})
    return float((found.argmax(axis=1) == original.argmax(axis=1)).mean())


def _answers(c: Compilation, activations: Mapping[str, Activation]) -> FloatArray:
    """Scores (samples, classes) of the network with some layers replaced, on calibration samples."""
    options = replace(c.options, activations={**c.options.activations, **activations})
    walk = Protect(replace(c, options=options), Compilation.require(c.mpc_prices, "trade", "prepare"), lean=True)
    graph = walk.run()
    scores = walk.values[id(graph.outputs[0])]
    return np.asarray(scores.reshape(len(scores), -1))


def _with(c: Compilation, offers: Sequence[_Offer], count: int) -> Compilation:
    chosen = {o.origin: _QUADRATIC for o in offers[:count]}
    options = replace(c.options, activations={**c.options.activations, **chosen})
    agreement = _agreement(c, offers, count, _answers(c, {})) if count else 1.0
    lost = math.floor(1000 * (1.0 - agreement) + 0.5) / 10
    note = (
        f"{count} of {len(offers)} layers that are cheaper as squares under {c.options.protocol} became squares; "
        f"that changes {lost:g} % of the answers on calibration samples"
    )
    return replace(c, options=options, notes=(*c.notes, note))
