"""Protect: what every nonlinearity becomes on shares.

Functions that consist of linear pieces stay exact: they cost one stacked comparison. Smooth ones get the
cheapest of several fits within the wanted error, each priced by lowering it for the plan's protocol and
network: a polynomial needs products only, pieces compare but stay right outside the calibrated range. Like
``approximate`` this walks the network front to back over the calibration samples, so that every choice sees
what the replaced layers before it yield.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np

from pi_compiler.approx import chebyshev, exponential, newton, piecewise, registry
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.poly import Approximant, Composite, Fit, Formula, Poly
from pi_compiler.approx.targets import Target
from pi_compiler.cost_mpc import MpcPrices, Network, network_of, total_cost
from pi_compiler.ir.graph import FloatArray, Node
from pi_compiler.ir.mpc_program import MpcPort
from pi_compiler.ops import OPS
from pi_compiler.ops.joint import centered, softmax_weights, visible
from pi_compiler.ops.op import integer
from pi_compiler.options import Activation
from pi_compiler.passes.approximate import Walk, check_names, choose, domain_of, goal_of
from pi_compiler.passes.calibrate import observe
from pi_compiler.passes.compilation import Compilation, Kept, Range, Ranges, Replacement
from pi_compiler.passes.expand import expand
from pi_compiler.passes.mpc.build import Builder
from pi_compiler.passes.mpc.functions import function
from pi_compiler.passes.mpc.share import RELU, exact_pieces

_PIECE_DEGREES = (1, 2, 3, 4)
_LARGEST_DEGREE = 31
_SEEDS = (1, 2, 4, 8)
_RELATIVE = 2.0**-11  # of reciprocals and inverse roots: a few units of 16 fractional bits
_GROWTH = 2.0  # what a polynomial may reach at one and a half times its interval, relative to its function
_POWER_SUM, _POWER_EPS = 64.0, 1e-3  # largest sum of fourth powers, and what is added relative to it
_OF_GELU = ("puma", "bumblebee", "mpcformer")
_POLYNOMIALS = ("Poly", "Square", "Pow")
_INVERSES = ("Reciprocal", "InverseSqrt")


def protect(c: Compilation) -> Compilation:
    """Graph and samples -> graph of exact pieces, fits and joint functions with their fits.

    Raises:
        ParameterError: ``options.activations`` names layers that do not exist.
        CalibrationError: a nonlinearity cannot be replaced as asked; all of them in one message.
    """
    nodes = [n for n in c.graph.nodes() if n.op != "Input" and _nonlinear(n)]
    check_names(nodes, c.options)
    prices = Compilation.require(c.mpc_prices, "protect", "prepare")
    walk = Protect(c, prices)
    replaced = walk.run()
    seen = Compilation.require(c.ranges, "protect", "calibrate")
    ranges = Ranges({**seen.by_node, **walk.ranges})
    return replace(c, replaced=replaced, fits=tuple(walk.fits), kept=tuple(walk.exact), ranges=ranges)


def _nonlinear(node: Node) -> bool:
    return OPS[node.op].kind == "nonlinear"


class Protect(Walk):
    """The forward pass.

    Args:
        c: the record, calibrated.
        prices: of the plan's protocol.
        lean: keep no ranges but those that fits need.
    """

    def __init__(self, c: Compilation, prices: MpcPrices, *, lean: bool = False) -> None:
        super().__init__(c, every_range=not lean)
        self.prices = prices
        self.network = network_of(c.options.network)
        self.exact: list[Kept] = []

    def replaced(self, node: Node, operand: Node) -> Node:
        """The node itself where it is exact, else what computes its fit."""
        seen = observe(operand, self.values[id(operand)], self.kept, full=True)
        self.ranges[id(operand)] = seen
        wanted = self.wanted(node)
        pieces = exact_pieces(node)
        if wanted.method in ("auto", "exact") and (pieces is not None or node.op == "PRelu"):
            comparisons = 1 if pieces is None else len(pieces.breaks) * (2 if pieces.fold else 1) + pieces.fold
            self.exact.append(Kept(node.origin, node.op, node.size, comparisons))
            return replace(node, inputs=(operand,))
        try:
            fit, made = self.fitted(node, operand, seen, wanted)
            if not fit.converged:
                raise ApproximationError(fit.message)
        except ApproximationError as e:
            self.faults.append(f"layer {node.origin!r} ({node.op}): {e}")
            return replace(node, inputs=(operand,))
        self.fits.append(Replacement(node.origin, node.op, node.size, fit))
        return made

    def wanted(self, node: Node) -> Activation:
        """What the user asked for; a published form of GELU for all layers means the layers that are GELU."""
        own = self.options.activations.get(node.origin)
        if own is not None:
            return own
        everywhere = self.options.activation
        return Activation() if everywhere.method in _OF_GELU and OPS[node.op].target != "gelu" else everywhere

    def fitted(self, node: Node, operand: Node, seen: Range, wanted: Activation) -> tuple[Fit, Node]:
        """A fit and the node that computes it."""
        if node.op in _POLYNOMIALS or wanted.method == "quadratic":
            choice = choose(node, seen, wanted, self.options)
            return choice.fit, choice.nodes(operand)
        if wanted.method == "exact":
            raise ApproximationError("it has no exact form on shares: --activation auto, or a method for this layer")
        if node.op in _INVERSES and wanted.method == "auto" and seen.low > 0.0:
            fit = self.inverse(node, seen)
            return fit, _computing(fit, operand, node)
        goal, density = goal_of(node), Density.of_histogram(seen.edges, seen.mass)
        domain = domain_of(goal, seen.widened(self.options.margin), density)
        if wanted.method == "auto" and goal.name == "reciprocal" and "interval" in node.attrs:
            fit = reciprocal(*cast(tuple[float, float], node.attrs["interval"]))
        elif wanted.method == "auto":
            fit = self.cheapest(goal, domain, density, seen.held_out, node.size)
        elif registry.METHODS.get(wanted.method) is None or (
            registry.METHODS[wanted.method].protocol == "ckks" and wanted.method != "mpcformer"
        ):
            choice = choose(node, seen, wanted, self.options)
            return choice.fit, choice.nodes(operand)
        else:
            method = registry.METHODS[wanted.method]
            degree = wanted.degree if wanted.degree is not None else method.degrees[-1]
            reach = _symmetric(domain) if goal.symmetry_on(_symmetric(domain)) == "even" else domain
            fit = registry.fit(wanted.method, goal, reach, degree, density=density, held_out=seen.held_out)
        return fit, _computing(fit, operand, node)

    def inverse(self, node: Node, seen: Range) -> Fit:
        """A division by what stays above 0 on calibration data: its interval is widened by a ratio, not by a width."""
        widen = self.options.margin**2
        low, high = seen.low / widen, seen.high * widen
        return (reciprocal if node.op == "Reciprocal" else inverse_root)(low, max(high, 1.01 * low))

    def cheapest(
        self, goal: Target, domain: tuple[float, float], density: Density, held_out: FloatArray | None, size: int
    ) -> Fit:
        """The fit within the wanted error that takes least time on the plan's network."""
        tolerance = self.options.activation_error
        found: list[tuple[float, Fit]] = []
        message = ""
        for make in _candidates(goal, domain, tolerance, density, held_out):
            try:
                fit = make()
                if fit.converged and fit.certificate.max_error <= tolerance and _tame(fit, goal, domain):
                    found.append((price(fit.approx, size, self.prices, self.network), fit))
                else:
                    message = message or fit.message
            except ApproximationError as e:
                message = message or str(e)
        if not found:
            raise ApproximationError(message or f"no fit of {goal.name} within {tolerance:g}")
        return min(found, key=lambda pair: pair[0])[1]

    def joint(self, node: Node) -> Node:
        """Softmax and layer normalization get the fits that their calibrated ranges need."""
        try:
            if node.op == "InnerSoftmax":
                return self.softmax(node)
            if node.op == "LayerNorm":
                return self.layer_norm(node)
        except ApproximationError as e:
            self.faults.append(f"layer {node.origin!r} ({node.op}): {e}")
        return node

    def softmax(self, node: Node) -> Node:
        """One of the replacements, with its exponential and its division fitted."""
        x = self.values[id(node.inputs[0])][: self.kept]
        attrs = dict(node.attrs)
        method, extra = self.options.softmax_of(node.origin).form, 0.0
        attrs["method"] = method
        axis = integer(node, "axis") + 1
        margin = self.options.margin
        if method == "max-exp":
            seen = visible(node)
            open_ = x if seen is None else np.take_along_axis(x, seen[None], axis)
            width = margin * float((open_.max(axis=axis, keepdims=True) - open_).max())
            e = exponential.smallest((-max(width, 1.0), 0.0), self.options.activation_error / 4)
            attrs["exponential"] = e.approx
            self.fits.append(Replacement(node.origin, node.op, node.size, e))
        elif method == "2quad":
            attrs["shift"] = 5.0
        elif method == "2relu":
            attrs["shift"], attrs["rectifier"] = 1e-2 / node.shape[axis - 1], RELU
        else:
            # Scaled so that fixed point keeps the largest sums' bits; the quotient does not change.
            largest = float((x**4).sum(axis=axis).max())
            attrs["squarings"], attrs["gain"] = 2, (_POWER_SUM / max(largest, 1e-30)) ** 0.25
            extra = _POWER_EPS * _POWER_SUM
        attrs["extra"] = extra
        made = replace(node, attrs=attrs)
        _, totals = softmax_weights(made, x)
        low, high = float(totals.min()) / margin, float(totals.max()) * margin
        if method == "max-exp":
            low = min(low, 1.0 - self.options.activation_error)
            low, high = max(low, 0.5), min(high, node.shape[axis - 1] * 1.01)
        elif low <= 0:
            raise ApproximationError(f"{method} divides by sums that come down to {float(totals.min()):.3g}")
        attrs["inverse"] = reciprocal(low, max(high, 1.01 * low)).approx
        return replace(node, attrs=attrs)

    def layer_norm(self, node: Node) -> Node:
        """The inverse root on the calibrated variances."""
        _, variance = centered(node, self.values[id(node.inputs[0])][: self.kept])
        widen = self.options.margin**2
        low, high = float(variance.min()) / widen, float(variance.max()) * widen
        fit = inverse_root(low, max(high, 1.01 * low))
        self.fits.append(Replacement(node.origin, node.op, variance[0].size, fit))
        return replace(node, attrs={**node.attrs, "inverse": fit.approx})


def _tame(fit: Fit, goal: Target, domain: tuple[float, float]) -> bool:
    """Whether a value a little outside of the interval does no harm: polynomials of high degree explode there."""
    if not isinstance(fit.approx, Poly) or fit.approx.degree <= 2:
        return True
    center, half = (domain[0] + domain[1]) / 2, (domain[1] - domain[0]) / 2
    with np.errstate(all="ignore"):
        reach = np.abs(goal(np.linspace(center - 1.5 * half, center + 1.5 * half, 65)))
    return fit.certificate.growth <= _GROWTH * float(np.nanmax(np.where(np.isfinite(reach), reach, np.nan)))


def _symmetric(domain: tuple[float, float]) -> tuple[float, float]:
    reach = max(abs(domain[0]), abs(domain[1]))
    return -reach, reach


def _computing(fit: Fit, operand: Node, node: Node) -> Node:
    """The node that computes a fit: polynomials as such, the rest as approximants."""
    if isinstance(fit.approx, Poly):
        return expand(fit.approx, operand, node)
    return Node("Approximant", (operand,), node.shape, {"approx": fit.approx}, node.origin)


def _candidates(
    goal: Target, domain: tuple[float, float], tolerance: float, density: Density, held_out: FloatArray | None
) -> Iterator[Callable[[], Fit]]:
    """Ways to compute a smooth function."""
    match goal.name:
        case "exp":
            yield partial(exponential.smallest, domain, tolerance, density=density, held_out=held_out)
        case "reciprocal":
            yield partial(newton.reciprocal, domain, tolerance=tolerance, density=density, held_out=held_out)
        case "sqrt":
            for seed in _SEEDS:
                yield partial(
                    newton.sqrt, domain, seed_degree=seed, tolerance=tolerance, density=density, held_out=held_out
                )
    wide = _symmetric(domain) if goal.symmetry_on(_symmetric(domain)) == "even" else domain
    if goal.name == "gelu":
        yield partial(piecewise.bumblebee_gelu, wide, density=density, held_out=held_out)
    for degree in _PIECE_DEGREES:
        yield partial(
            piecewise.fitted, goal, wide, degree, tolerance, largest_count=8, density=density, held_out=held_out
        )
    yield partial(
        chebyshev.smallest, goal, domain, tolerance, largest_degree=_LARGEST_DEGREE, density=density, held_out=held_out
    )


def price(approx: Approximant, size: int, prices: MpcPrices, network: Network) -> float:
    """Predicted seconds of an approximant of so many values, from its own lowering."""
    b = Builder(16, 16)
    b.at("price")
    x = b.input((size,))
    made = function(b, x, approx).made(b)
    program = b.program({"x": MpcPort(x, (size,))}, {"y": MpcPort(b.reveal(made, 1), (size,))}, prices.protocol, {})
    return network.seconds(total_cost(program, prices, within=True))


def depth(f: Formula | Poly | Composite) -> int:
    """Rounds of products, one after the other."""
    b = Builder(16, 16)
    b.at("depth")
    x = b.input((1,))
    made = function(b, x, f).made(b)
    program = b.program({"x": MpcPort(x, (1,))}, {"y": MpcPort(b.reveal(made, 1), (1,))}, "crypten-tfp", {})
    return sum(i.op in ("mul", "square") for i in program.instrs)


def reciprocal(low: float, high: float) -> Fit:
    """1 / x with a relative error of about 2^-11 on a positive interval."""
    if not (low > 0.0 and math.isfinite(high)):
        raise ApproximationError(f"a division by values in [{low:.3g}, {high:.3g}]")
    return newton.reciprocal((low, high), tolerance=_RELATIVE / high if high < 1 else _RELATIVE / low)


def inverse_root(low: float, high: float) -> Fit:
    """1 / sqrt(x) in the fewest rounds."""
    if not (low > 0.0 and math.isfinite(high)):
        raise ApproximationError(f"an inverse square root of values in [{low:.3g}, {high:.3g}]")
    found: list[tuple[int, Fit]] = []
    for seed in _SEEDS:
        try:
            fit = newton.inv_sqrt((low, high), seed_degree=seed, tolerance=_RELATIVE / np.sqrt(low))
        except ApproximationError:
            continue
        if fit.converged and isinstance(fit.approx, Formula):
            found.append((depth(fit.approx), fit))
    if not found:
        raise ApproximationError(f"no inverse square root on [{low:.3g}, {high:.3g}]: the interval is too wide")
    return min(found, key=lambda pair: pair[0])[1]
