"""Approximate: every nonlinearity becomes a polynomial with a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pi_compiler.approx import chebyshev, least_squares
from pi_compiler.approx.certificate import certify
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.poly import Fit, Poly
from pi_compiler.approx.targets import Target, custom, target
from pi_compiler.errors import CalibrationError, InternalError, ParameterError
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops import OPS
from pi_compiler.options import Activation, Options
from pi_compiler.passes.compilation import Compilation, Range, Ranges, Replacement

_LARGEST_AUTOMATIC_DEGREE = 127
_UNIFORM_SHARE = 1e-3  # keeps a quadratic tame where calibration data are thin
_EXACT = Activation("auto")


def approximate(c: Compilation) -> Compilation:
    """Graph and ranges -> graph with ``Poly`` activations, fits, ranges of the new graph's nodes.

    Raises:
        ParameterError: ``options.activations`` names layers that do not exist.
        CalibrationError: a range is too wide for the requested error, or outside a function's domain.
    """
    ranges = Compilation.require(c.ranges, "approximate", "calibrate")
    nodes = [n for n in c.graph.nodes() if n.op != "Input" and OPS[n.op].kind == "nonlinear"]
    _check_names(nodes, c.options)
    change: dict[Node, Node] = {}
    fits: list[Replacement] = []
    faults: list[str] = []
    for node in nodes:
        choice = c.options.activations.get(node.origin, c.options.activation)
        try:
            fit, coef, domain = replacement(node, ranges.of(node.inputs[0]), choice, c.options)
        except ApproximationError as e:
            faults.append(f"layer {node.origin!r} ({node.op}): {e}")
            continue
        if not fit.converged:
            faults.append(f"layer {node.origin!r} ({node.op}): {fit.message}")
            continue
        fits.append(Replacement(node.origin, node.op, node.size, fit))
        basis = fit.approx.basis if isinstance(fit.approx, Poly) else "chebyshev"
        change[node] = Node(
            "Poly", node.inputs, node.shape, {"basis": basis, "coef": coef, "domain": domain}, node.origin
        )
    if faults:
        raise CalibrationError(
            f"{len(faults)} of {len(nodes)} nonlinearities cannot be approximated as asked",
            *faults,
            hint="--activation quadratic, a larger --activation-error, or training that keeps ranges small",
        )
    replaced = c.graph.rewrite(change)
    return replace(c, replaced=replaced, fits=tuple(fits), ranges=_carry(ranges, c.graph, replaced))


def _carry(ranges: Ranges, old: Graph, new: Graph) -> Ranges:
    carried = ranges.carried(old, new)
    return Ranges({**ranges.by_node, **carried.by_node})


def _check_names(nodes: list[Node], options: Options) -> None:
    known = {n.origin for n in nodes}
    unknown = sorted(set(options.activations) - known)
    if unknown:
        raise ParameterError(
            f"--activation names layers that are not nonlinearities: {', '.join(unknown)}",
            f"nonlinearities of this model: {', '.join(sorted(known))}",
        )


def replacement(node: Node, seen: Range, choice: Activation, options: Options) -> tuple[Fit, FloatArray, FloatArray]:
    """A fit for one activation, and the ``Poly`` node's coefficients and domain."""
    op = OPS[node.op]
    domain = seen.widened(options.margin)
    density = Density.of_histogram(seen.edges, seen.mass)
    if node.op == "Poly" and np.asarray(node.attrs["coef"]).ndim == 2:
        return _given_by_channel(node, domain, seen)
    exact = op.polynomial(node)
    if exact is not None:
        poly = Poly("power", tuple(float(v) for v in exact), domain)
        goal = custom(node.op, poly.__call__)
        fit = Fit(node.op, poly, "exact", certify(goal, poly, domain, held_out=seen.held_out))
        return fit, np.asarray(poly.coef), np.asarray(domain)
    per_channel = _channel_targets(node)
    if per_channel is not None:
        return _by_channel(node, per_channel, seen, choice, options)
    fit = _fit(target(op.target, **op.parameters(node)), domain, density, choice, options, seen.held_out)
    if not isinstance(fit.approx, Poly):
        raise InternalError(f"fit of {node.origin!r} is not a single polynomial")
    return fit, np.asarray(fit.approx.coef), np.asarray(fit.approx.domain)


def _given_by_channel(node: Node, domain: tuple[float, float], seen: Range) -> tuple[Fit, FloatArray, FloatArray]:
    """A quadratic per channel that the model itself spells out: exact, nothing is fitted."""
    coef = np.asarray(node.attrs["coef"], dtype=np.float64)
    steepest = int(np.abs(coef[-1]).argmax())
    poly = Poly("power", tuple(coef[:, steepest].tolist()), domain)
    certificate = certify(custom(node.op, poly.__call__), poly, domain, held_out=seen.held_out)
    note = f"{coef.shape[1]} channels with coefficients of their own; shown is channel {steepest}"
    return Fit(node.op, poly, "exact", certificate, notes=(note,)), coef, np.asarray(domain)


def _fit(
    goal: Target,
    domain: tuple[float, float],
    density: Density,
    choice: Activation,
    options: Options,
    held_out: FloatArray | None,
) -> Fit:
    low, high = goal.defined_on
    domain = max(domain[0], _inside(low, density.span[0])), min(domain[1], _inside(high, density.span[1]))
    if choice.method == "quadratic":
        return least_squares.weighted(goal, 2, density, domain=domain, floor=_UNIFORM_SHARE, held_out=held_out)
    if choice.degree is not None:
        return chebyshev.interpolate(goal, domain, choice.degree, density=density, held_out=held_out)
    return chebyshev.smallest(
        goal,
        domain,
        options.activation_error,
        largest_degree=_LARGEST_AUTOMATIC_DEGREE,
        density=density,
        held_out=held_out,
    )


def _inside(bound: float, seen: float) -> float:
    """Where a domain of definition ends: half way from the calibrated end, never on a pole."""
    return bound if np.isinf(bound) else (bound + seen) / 2


def _channel_targets(node: Node) -> Callable[[int], Target] | None:
    """Per-channel targets of an activation with a parameter per channel (PRelu), else None."""
    slope = node.attrs.get("slope")
    if node.op != "PRelu" or not isinstance(slope, np.ndarray) or np.unique(slope).size == 1:
        return None
    slopes = np.broadcast_to(slope, node.shape[1:])
    first = slopes.reshape(slopes.shape[0], -1)
    if (first != first[:, :1]).any():
        raise ApproximationError("slopes that differ within a channel are not supported")
    return lambda channel: target("prelu", slope=float(first[channel, 0]))


def _by_channel(
    node: Node, targets: Callable[[int], Target], seen: Range, choice: Activation, options: Options
) -> tuple[Fit, FloatArray, FloatArray]:
    """One quadratic per channel; higher degrees would need one evaluation per channel."""
    if choice.method != "quadratic":
        raise ApproximationError("a slope per channel needs --activation quadratic for this layer")
    domain = seen.widened(options.margin)
    density = Density.of_histogram(seen.edges, seen.mass)
    fits = [_fit(targets(k), domain, density, choice, options, seen.held_out) for k in range(node.shape[1])]
    worst = max(fits, key=lambda f: f.certificate.max_error)
    coef = np.stack([np.asarray(f.approx.coef) for f in fits if isinstance(f.approx, Poly)], axis=1)
    domains = np.tile(np.asarray(domain)[:, None], (1, len(fits)))
    return replace(worst, notes=(f"worst of {len(fits)} channels",)), coef, domains
