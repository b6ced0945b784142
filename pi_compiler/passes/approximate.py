"""Approximate: every nonlinearity becomes a polynomial, or a formula of polynomials, with a certificate.

The network is replaced front to back in one forward pass over the calibration samples: a layer's
fit sees the values that the already replaced layers before it yield, which is what it will see
when it runs encrypted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pi_compiler.approx import chebyshev, composite, inverse, least_squares, registry
from pi_compiler.approx.certificate import certify
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.formula import reads_once
from pi_compiler.approx.poly import Fit, Formula, Poly
from pi_compiler.approx.targets import Target, custom, target
from pi_compiler.errors import CalibrationError, InternalError, ParameterError
from pi_compiler.ir.graph import Attr, FloatArray, Graph, Node
from pi_compiler.ops import OPS
from pi_compiler.options import Activation, Options
from pi_compiler.passes.calibrate import TOO_LARGE, observe, samples_of
from pi_compiler.passes.compilation import Compilation, Range, Ranges, Replacement
from pi_compiler.passes.expand import expand

_LARGEST_AUTOMATIC_DEGREE = 127
_UNIFORM_SHARE = 1e-3  # keeps a quadratic tame where calibration data are thin
_CHANNEL_MARGIN = 1.75
"""A channel's largest value is seen less often than the tensor's: on ResNet-20 the held-out fifth of
64 images went up to 1.45 times beyond a channel's range, but not beyond the tensor's."""

HOMOGENEOUS = ("relu", "leaky_relu", "abs")
"""f(b x) = b f(x) for b > 0: a range per channel folds into the weights around."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What replaces one layer: a fit, and the nodes that compute it from the layer's operand."""

    fit: Fit
    nodes: Callable[[Node], Node]


def approximate(c: Compilation) -> Compilation:
    """Graph and samples -> graph of polynomials, fits, ranges of the new graph's values.

    Raises:
        ParameterError: ``options.activations`` names layers that do not exist.
        CalibrationError: a range is too wide for the requested error or outside a function's
            domain, or the replaced network yields values that are not finite.
    """
    check_names([n for n in c.graph.nodes() if n.op != "Input" and OPS[n.op].kind == "nonlinear"], c.options)
    walk = Walk(c, every_range=True)
    replaced = walk.run()
    seen = Compilation.require(c.ranges, "approximate", "calibrate")
    ranges = Ranges({**seen.by_node, **walk.ranges})
    return replace(c, replaced=replaced, fits=tuple(walk.fits), ranges=ranges)


def polynomial_answers(c: Compilation) -> dict[str, FloatArray]:
    """Outputs of the polynomial network on the calibration samples, without keeping anything else.

    Raises:
        CalibrationError: see ``approximate``.
    """
    walk = Walk(c, every_range=False)
    replaced = walk.run()
    return {name: walk.values[id(n)] for name, n in zip(replaced.output_names, replaced.outputs, strict=True)}


class Walk:
    """The forward pass: values of the replaced network, its nodes, ranges and fits."""

    def __init__(self, c: Compilation, every_range: bool) -> None:
        self.graph = c.graph
        self.every_range = every_range
        self.options = c.options
        self.chosen = c.chosen or {}
        self.samples, self.kept = samples_of(c.calibration)
        self.new: dict[int, Node] = {}
        self.values: dict[int, FloatArray] = {}
        self.known: set[int] = set()
        self.ranges: dict[int, Range] = {}
        self.fits: list[Replacement] = []
        self.faults: list[str] = []
        self.uses = _uses(c.graph)
        self.count = sum(n.op != "Input" and OPS[n.op].kind == "nonlinear" for n in c.graph.nodes())

    def run(self) -> Graph:
        """The replaced graph."""
        for node in self.graph.nodes():
            self.visit(node)
        if self.faults:
            raise CalibrationError(
                f"{len(self.faults)} of {self.count} nonlinearities cannot be approximated as asked",
                *self.faults,
                hint="--activation quadratic, a larger --activation-error, or training that keeps ranges small",
            )
        return replace(
            self.graph,
            inputs=tuple(self.new[id(n)] for n in self.graph.inputs),
            outputs=tuple(self.new[id(n)] for n in self.graph.outputs),
        )

    def visit(self, node: Node) -> None:
        """Replace one node of the old graph and compute its value."""
        if node.op == "Input":
            self.keep(node, self.samples[node.origin])
            self.new[id(node)] = node
            return
        operands = tuple(self.new[id(i)] for i in node.inputs)
        top = replace(node, inputs=operands)
        if OPS[node.op].kind == "nonlinear":
            top = self.replaced(node, operands[0])
        elif OPS[node.op].kind == "joint":
            top = self.joint(top)
        self.compute(top)
        self.new[id(node)] = top
        for operand in node.inputs:
            self.uses[id(operand)] -= 1
            if not self.uses[id(operand)]:
                self.values.pop(id(self.new[id(operand)]), None)

    def replaced(self, node: Node, operand: Node) -> Node:
        """The nodes that replace a nonlinearity; the nonlinearity itself if none can."""
        # A fit that is given only needs to know how far its channels reach.
        seen = observe(operand, self.values[id(operand)], self.kept, full=node.origin not in self.chosen)
        self.ranges[id(operand)] = seen
        try:
            choice = self.choice(node, seen)
            if not choice.fit.converged:
                raise ApproximationError(choice.fit.message)
            self.fits.append(Replacement(node.origin, node.op, node.size, choice.fit))
            return choice.nodes(operand)
        except ApproximationError as e:
            self.faults.append(f"layer {node.origin!r} ({node.op}): {e}")
            return replace(node, inputs=(operand,))

    def joint(self, node: Node) -> Node:
        """What replaces a function of several elements; here itself."""
        return node

    def choice(self, node: Node, seen: Range) -> Choice:
        given = self.chosen.get(node.origin)
        if given is not None:
            bounds = channel_bounds(node, seen, self.options.margin) if given.per_channel else None
            if bounds is not None:
                told = in_layer_units(given.fit, bounds)
                return Choice(told, lambda x: _by_channel(given.fit, x, node, bounds))
            return Choice(given.fit, lambda x: expand(given.fit.approx, x, node))
        return choose(node, seen, wanted_for(node, self.options), self.options)

    def compute(self, top: Node) -> None:
        """Values and ranges of a node and of the new ones between it and those known before."""
        inner = self.between(top)
        for node in inner:
            with np.errstate(all="ignore"):
                value = OPS[node.op].apply(node, [self.values[id(i)] for i in node.inputs])
            if not np.isfinite(value).all() or np.abs(value).max(initial=0.0) > TOO_LARGE:
                raise CalibrationError(
                    f"the polynomial network leaves all bounds at layer {node.origin!r} ({node.op})",
                    "values grow from layer to layer because inputs leave the intervals of the fits",
                    hint="more calibration samples, a larger --margin, or retraining that keeps ranges small",
                )
            self.keep(node, value)
        for node in inner:
            if node is not top:
                del self.values[id(node)]

    def between(self, top: Node) -> list[Node]:
        """Nodes that were never computed, operands first."""
        if id(top) in self.known:
            return []
        found: list[Node] = []
        for operand in top.inputs:
            if id(operand) not in self.known:
                found += [n for n in self.between(operand) if n not in found]
        return [*found, top]

    def keep(self, node: Node, value: FloatArray) -> None:
        self.values[id(node)] = value
        self.known.add(id(node))
        if self.every_range and id(node) not in self.ranges:
            self.ranges[id(node)] = observe(node, value, self.kept)


def _uses(graph: Graph) -> dict[int, int]:
    uses = {id(n): 0 for n in graph.nodes()}
    for node in graph.nodes():
        for operand in node.inputs:
            uses[id(operand)] += 1
    for node in graph.outputs:
        uses[id(node)] += 1
    return uses


def check_names(nodes: Sequence[Node], options: Options) -> None:
    """Refuse options for layers that are no nonlinearities.

    Raises:
        ParameterError: naming all of them.
    """
    known = {n.origin for n in nodes}
    unknown = sorted(set(options.activations) - known)
    if unknown:
        raise ParameterError(
            f"--activation names layers that are not nonlinearities: {', '.join(unknown)}",
            f"nonlinearities of this model: {', '.join(sorted(known))}",
        )


def wanted_for(node: Node, options: Options) -> Activation:
    """What the user asks for a layer. Quadratics for all layers mean activations: a divisor has to be named itself."""
    wanted = options.activations.get(node.origin)
    if wanted is not None:
        return wanted
    spared = options.activation.method == "quadratic" and OPS[node.op].target in inverse.INVERSES
    return Activation() if spared else options.activation


def choose(node: Node, seen: Range, wanted: Activation, options: Options) -> Choice:
    """A fit for one activation as the user wants it, and the nodes that compute it."""
    domain = seen.widened(options.margin)
    density = Density.of_histogram(seen.edges, seen.mass)
    exact = _exact(node, domain, seen)
    if exact is not None:
        return exact
    if wanted.method == "quadratic":
        return _quadratic(node, seen, domain, density)
    goal = goal_of(node)
    if goal.name in inverse.INVERSES:
        return _inverse(node, goal, seen, domain, wanted, options)
    domain = domain_of(goal, domain, density)
    bounds = channel_bounds(node, seen, options.margin)
    if bounds is not None and goal.name in HOMOGENEOUS:
        return _homogeneous(node, goal, bounds, seen, wanted, options)
    fit = _fit(goal, domain, density, wanted, options.activation_error, seen.held_out)
    return Choice(fit, lambda x: expand(fit.approx, x, node))


def _inverse(
    node: Node, goal: Target, seen: Range, domain: tuple[float, float], wanted: Activation, options: Options
) -> Choice:
    """An iteration for a reciprocal or an inverse square root; its error is relative to the function's value."""
    domain = _positive(node, seen, domain, options)
    density, tolerance = Density.of_histogram(seen.edges, seen.mass), options.activation_error
    if wanted.method == "auto":
        fit = inverse.shallowest(goal.name, domain, tolerance, density=density, held_out=seen.held_out)
    else:
        fit = _fit(goal, domain, density, wanted, tolerance, seen.held_out)
    if not isinstance(fit.approx, Formula) or not reads_once(fit.approx):
        return Choice(fit, lambda x: expand(fit.approx, x, node))
    attrs: dict[str, Attr] = {"approx": fit.approx, **{k: v for k, v in node.attrs.items() if k == "full"}}
    return Choice(fit, lambda x: Node("Approximant", (x,), node.shape, attrs, node.origin))


def _positive(node: Node, seen: Range, domain: tuple[float, float], options: Options) -> tuple[float, float]:
    """The interval of an inverse: the certified one, or the calibrated one kept above zero.

    Raises:
        ApproximationError: data leave the one, or the other reaches zero.
    """
    given = node.attrs.get("interval")
    if given is not None:
        low, high = (float(v) for v in np.asarray(given, dtype=np.float64).reshape(-1))
        if seen.low < low or seen.high > high:
            spread = "; errors of the exponentials do that where scores spread widely: try --softmax normalize-square"
            raise ApproximationError(
                f"calibration data drive its operand to [{seen.low:.4g}, {seen.high:.4g}], outside of the certified "
                f"interval [{low:.4g}, {high:.4g}]{spread if node.op == 'Reciprocal' else ''}"
            )
        domain = low, high
    elif domain[0] <= 0.0 < seen.low:
        # The data stay above 0 though their interval, widened on both sides, does not: below, they keep the same ratio.
        domain = seen.low / options.margin, domain[1]
    if not domain[0] > 0.0:
        raise ApproximationError(
            f"the interval of its operand reaches 0: found [{domain[0]:.4g}, {domain[1]:.4g}], needed one above 0; "
            "try a larger constant added to it (epsilon), or retraining that keeps it away from 0"
        )
    return domain


def _homogeneous(
    node: Node, goal: Target, bounds: FloatArray, seen: Range, wanted: Activation, options: Options
) -> Choice:
    """One fit on [-1, 1] that serves every channel, each with its own range folded into the weights."""
    widest = float(bounds.max())
    unseen = None if seen.held_out is None else seen.held_out / bounds
    fit = _fit(goal, (-1.0, 1.0), unit_density(seen, bounds), wanted, options.activation_error / widest, unseen)
    told = in_layer_units(fit, bounds)
    return Choice(told, lambda x: _by_channel(fit, x, node, bounds))


def unit_density(seen: Range, bounds: FloatArray) -> Density:
    """Where the values lie after each channel is divided by its bound."""
    if seen.seen is None:
        raise InternalError("a range without its sample has no density per channel")
    return Density.of_samples(seen.seen / bounds)


def in_layer_units(fit: Fit, bounds: FloatArray) -> Fit:
    """A fit on [-1, 1] with its certificate in the values of the widest channel, for reports."""
    c, widest = fit.certificate, float(bounds.max())
    certificate = replace(
        c,
        domain=(-widest, widest),
        max_error=c.max_error * widest,
        at=c.at * widest,
        weighted_error=c.weighted_error * widest,
        growth=c.growth * widest,
    )
    note = f"a range per channel, from {bounds.min():.3g} to {widest:.3g}; errors are those of the widest"
    message = fit.message and f"{fit.message}; this is in units of each channel's own range, at most {widest:.3g}"
    return replace(fit, certificate=certificate, notes=(*fit.notes, note), message=message)


def goal_of(node: Node) -> Target:
    """The function of an activation.

    Raises:
        ApproximationError: it differs from channel to channel.
    """
    if _channel_slopes(node) is not None:
        raise ApproximationError("a slope per channel needs --activation quadratic for this layer")
    op = OPS[node.op]
    return target(op.target, **op.parameters(node))


def _exact(node: Node, domain: tuple[float, float], seen: Range) -> Choice | None:
    """An activation that is a polynomial already."""
    given = np.asarray(node.attrs["coef"], dtype=np.float64) if node.op == "Poly" else None
    if given is not None and given.ndim == 2:
        steepest = int(np.abs(given[-1]).argmax())
        coef = given[:, steepest]
        notes: tuple[str, ...] = (f"channel {steepest} of {given.shape[1]}, each with its own coefficients",)
    else:
        own = OPS[node.op].polynomial(node)
        if own is None:
            return None
        coef, notes = np.asarray(own, dtype=np.float64), ()
    poly = Poly("power", tuple(coef.tolist()), domain)
    certificate = certify(custom(node.op, poly.__call__), poly, domain, held_out=seen.held_out)
    attrs = {"basis": "power", "coef": coef if given is None else given, "domain": np.asarray(domain)}
    fit = Fit(node.op, poly, "exact", certificate, notes=notes)
    return Choice(fit, lambda x: Node("Poly", (x,), node.shape, attrs, node.origin))


def _quadratic(node: Node, seen: Range, domain: tuple[float, float], density: Density) -> Choice:
    """Least squares of degree two per channel, weighted by each channel's own density where it is known."""
    slopes = _channel_slopes(node)
    goals = [goal_of(node)] if slopes is None else [target("prelu", slope=float(s)) for s in slopes]
    domain = domain_of(goals[0], domain, density)
    whole = [
        least_squares.weighted(g, 2, density, domain=domain, floor=_UNIFORM_SHARE, held_out=seen.held_out)
        for g in goals
    ]
    worst = max(whole, key=lambda f: f.certificate.weighted_error)
    if len(whole) == 1:
        fit = whole[0]
        return Choice(fit, lambda x: expand(fit.approx, x, node))
    coef = np.stack([np.asarray(f.approx.coef) for f in whole if isinstance(f.approx, Poly)], axis=1)
    attrs = {"basis": "chebyshev", "coef": coef, "domain": np.tile(np.asarray(domain)[:, None], (1, len(whole)))}
    fit = replace(worst, notes=(*worst.notes, f"worst of {len(whole)} channels"))
    return Choice(fit, lambda x: Node("Poly", (x,), node.shape, attrs, node.origin))


def _fit(
    goal: Target,
    domain: tuple[float, float],
    density: Density,
    wanted: Activation,
    tolerance: float,
    held_out: FloatArray | None,
) -> Fit:
    """A fit by a named method."""
    gated = goal.name in (*HOMOGENEOUS, "prelu", "max")
    if wanted.method == "composite":
        if not gated:
            return _smallest(goal, domain, density, tolerance, held_out)
        if wanted.degree is not None:
            return registry.fit("composite", goal, domain, wanted.degree, density=density, held_out=held_out)
        return composite.gated(goal, domain, tolerance=tolerance, density=density, held_out=held_out)
    if wanted.method in ("auto", "chebyshev") and wanted.degree is None:
        if wanted.method == "auto" and gated and domain[0] < 0.0 < domain[1]:
            return composite.gated(goal, domain, tolerance=tolerance, density=density, held_out=held_out)
        return _smallest(goal, domain, density, tolerance, held_out)
    method = registry.METHODS[wanted.method]
    degree = wanted.degree if wanted.degree is not None else method.degrees[-1]
    return registry.fit(wanted.method, goal, domain, degree, density=density, held_out=held_out)


def _smallest(
    goal: Target, domain: tuple[float, float], density: Density, tolerance: float, held_out: FloatArray | None
) -> Fit:
    return chebyshev.smallest(
        goal, domain, tolerance, largest_degree=_LARGEST_AUTOMATIC_DEGREE, density=density, held_out=held_out
    )


def domain_of(goal: Target, domain: tuple[float, float], density: Density) -> tuple[float, float]:
    """The domain cut to where the function is defined: half way from the data, never on a pole."""
    low, high = goal.defined_on
    first, last = density.span
    return (
        domain[0] if np.isinf(low) else max(domain[0], (low + first) / 2),
        domain[1] if np.isinf(high) else min(domain[1], (high + last) / 2),
    )


def _channel_slopes(node: Node) -> FloatArray | None:
    """PRelu's slopes if they differ between channels, else None."""
    slope = node.attrs.get("slope")
    if node.op != "PRelu" or not isinstance(slope, np.ndarray) or np.unique(slope).size == 1:
        return None
    full = np.broadcast_to(slope, node.shape)
    channels = np.moveaxis(full, 1, 0).reshape(node.shape[1], -1)
    if (channels != channels[:, :1]).any():
        raise ApproximationError("slopes that differ within a channel are not supported")
    return np.asarray(channels[:, 0], dtype=np.float64)


def channel_bounds(node: Node, seen: Range, margin: float) -> FloatArray | None:
    """Largest magnitude per channel, widened; None where there are no channels to tell apart."""
    if len(node.shape) < 3 or seen.channel_low.size < 2:
        return None
    reach = np.maximum(np.abs(seen.channel_low), np.abs(seen.channel_high))
    widest = margin * float(reach.max())
    if widest == 0.0:
        return None
    # A channel that calibration hardly moved keeps room for values it did not show.
    return np.clip(_CHANNEL_MARGIN * reach, 0.1 * widest, widest)


def _by_channel(fit: Fit, x: Node, node: Node, bounds: FloatArray) -> Node:
    """Bounds * fit(x / bounds): both scalings fold into the weights around it."""
    shape = (-1, *(1,) * (len(node.shape) - 2))
    narrow = Node("Affine", (x,), x.shape, _scale(1.0 / bounds.reshape(shape)), node.inputs[0].origin)
    inner = expand(fit.approx, narrow, node)
    return Node("Affine", (inner,), node.shape, _scale(bounds.reshape(shape)), node.origin)


def _scale(factor: FloatArray) -> Mapping[str, FloatArray]:
    return {"scale": factor, "shift": np.zeros(())}
