"""Choose: spend degrees where they matter, under a latency or an accuracy budget.

How much each layer's error matters is measured: the layer alone is replaced by a crude quadratic,
and the error of the network's output is set against the error of the layer. Per layer a menu of
fits, priced in levels and products; dynamic programming over the layers gives the Pareto list
(``approx.choose``, the problem of OLA, arXiv 2310.10349). The budget picks from it by trying: the
list is ordered by price, so a binary search needs few tries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from pi_compiler.approx import least_squares
from pi_compiler.approx.choose import Assignment, Option, menu, pareto, price_of_depth
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError
from pi_compiler.approx.inverse import INVERSES
from pi_compiler.approx.targets import Target
from pi_compiler.errors import BudgetError, CalibrationError
from pi_compiler.ir.graph import FloatArray, Graph, IntArray, Node
from pi_compiler.ops import OPS
from pi_compiler.ops.evaluate import as_batch, evaluate
from pi_compiler.passes.approximate import (
    HOMOGENEOUS,
    approximate,
    channel_bounds,
    domain_of,
    goal_of,
    polynomial_answers,
    unit_density,
)
from pi_compiler.passes.calibrate import samples_of
from pi_compiler.passes.compilation import Chosen, Compilation, Range
from pi_compiler.passes.fold import fold
from pi_compiler.passes.schedule import schedule

_PROBE_SAMPLES = 32
_PRODUCT = 0.02  # levels that one ciphertext product is worth: key switching against a level more for everything
_LISTED = 64


def choose(c: Compilation) -> Compilation:
    """Graph and ranges -> a fit per layer, if a budget asks for it.

    Raises:
        BudgetError: nothing on the Pareto list meets the budget.
    """
    if c.options.max_latency is None and c.options.max_accuracy_drop is None:
        return c
    nodes = open_layers(c)
    if not nodes:
        return c
    frontier = pareto(menus(c, nodes))
    listed = [frontier[i] for i in np.unique(np.linspace(0, len(frontier) - 1, _LISTED).astype(int))]
    best = pick(c, nodes, frontier)
    return replace(c, chosen=as_chosen(c, nodes, best), frontier=tuple((a.depth, a.error, a.price) for a in listed))


def open_layers(c: Compilation) -> list[Node]:
    """Nonlinearities whose replacement is not given: no polynomials or inverses, none that the user named."""
    return [
        n
        for n in c.graph.nodes()
        if n.op not in ("Input", "Poly")
        and OPS[n.op].kind == "nonlinear"
        and OPS[n.op].polynomial(n) is None
        and OPS[n.op].target not in INVERSES
        and n.origin not in c.options.activations
    ]


def menus(c: Compilation, nodes: Sequence[Node]) -> list[tuple[Option, ...]]:
    """What each layer may choose from, errors weighted by measured sensitivities."""
    ranges = Compilation.require(c.ranges, "choose", "calibrate")
    weights = sensitivities(c, nodes)
    found, faults = [], []
    for node, weight in zip(nodes, weights, strict=True):
        seen = ranges.of(node.inputs[0])
        try:
            goal, density, domain = problem(node, seen, c.options.margin)
            found.append(menu(goal, density, domain, price=price_of_depth(1.0, _PRODUCT), sensitivity=weight))
        except ApproximationError as e:
            faults.append(f"layer {node.origin!r} ({node.op}): {e}")
    if faults:
        raise CalibrationError("some nonlinearities have no replacement to choose from", *faults)
    return found


def problem(node: Node, seen: Range, margin: float) -> tuple[Target, Density, tuple[float, float]]:
    """What is to be fitted: per channel on [-1, 1] where the function scales, else on the layer's interval."""
    goal = goal_of(node)
    bounds = channel_bounds(node, seen, margin)
    if bounds is not None and goal.name in HOMOGENEOUS:
        return goal, unit_density(seen, bounds), (-1.0, 1.0)
    density = Density.of_histogram(seen.edges, seen.mass)
    return goal, density, domain_of(goal, seen.widened(margin), density)


def sensitivities(c: Compilation, nodes: Sequence[Node]) -> list[float]:
    """Per layer: mean square error of the output per mean square error of the layer.

    For layers whose fits are made on [-1, 1], an error counts in those units.
    """
    ranges = Compilation.require(c.ranges, "choose", "calibrate")
    samples, _ = samples_of(c.calibration)
    few = {name: x[:_PROBE_SAMPLES] for name, x in samples.items()}
    exact = evaluate(c.graph, few)
    found = []
    for node in nodes:
        seen = ranges.of(node.inputs[0])
        goal = goal_of(node)
        density = Density.of_histogram(seen.edges, seen.mass)
        crude = least_squares.weighted(goal, 2, density, floor=1e-3)
        error = float(crude.certificate.weighted_error) ** 2
        outputs = _with_function(c.graph, node, few, crude.approx)
        moved = sum(float(((outputs[n] - exact[n]) ** 2).mean()) for n in exact)
        size = sum(float((v**2).mean()) for v in exact.values())
        bounds = channel_bounds(node, seen, c.options.margin)
        unit = float((bounds**2).mean()) if bounds is not None and goal.name in HOMOGENEOUS else 1.0
        found.append(moved / max(error, 1e-300) / max(size, 1e-300) * unit)
    return found


def _with_function(
    graph: Graph, node: Node, inputs: dict[str, FloatArray], function: Callable[[FloatArray], FloatArray]
) -> dict[str, FloatArray]:
    """Outputs of the graph with one activation computed by another function."""
    values = {id(n): as_batch(n, inputs[n.origin]) for n in graph.inputs}
    for other in graph.nodes():
        if other.op == "Input":
            continue
        operands = [values[id(i)] for i in other.inputs]
        values[id(other)] = function(operands[0]) if other is node else OPS[other.op].apply(other, operands)
    return {name: values[id(n)] for name, n in zip(graph.output_names, graph.outputs, strict=True)}


def as_chosen(c: Compilation, nodes: Sequence[Node], a: Assignment) -> dict[str, Chosen]:
    """Fits by layer."""
    ranges = Compilation.require(c.ranges, "choose", "calibrate")
    chosen = {}
    for node, option in zip(nodes, a.options, strict=True):
        if option.fit is None:
            continue
        seen = ranges.of(node.inputs[0])
        scaled = channel_bounds(node, seen, c.options.margin) is not None and goal_of(node).name in HOMOGENEOUS
        chosen[node.origin] = Chosen(option.fit, scaled)
    return chosen


def pick(c: Compilation, nodes: Sequence[Node], frontier: Sequence[Assignment]) -> Assignment:
    """The assignment that the budgets ask for."""

    @cache
    def lost(i: int) -> float:
        return lost_answers(replace(c, chosen=as_chosen(c, nodes, frontier[i])), exact)

    @cache
    def seconds(i: int) -> float:
        return planned_seconds(replace(c, chosen=as_chosen(c, nodes, frontier[i])))

    first = 0
    drop, limit = c.options.max_accuracy_drop, c.options.max_latency
    if drop is not None:
        exact = answers(c)
        first = _first(len(frontier), lambda i: lost(i) <= drop)
        if first == len(frontier):
            raise BudgetError(
                f"no assignment of fits loses at most {drop:.2%} of the original's answers",
                f"the most accurate one takes {frontier[-1].depth} levels for activations and loses "
                f"{lost(len(frontier) - 1):.2%} on calibration data",
                hint="a larger --max-accuracy-drop, a larger --margin, more calibration samples, or retraining",
            )
    if limit is None:
        return frontier[first]
    too_slow = _first(len(frontier) - first, lambda i: seconds(first + i) > limit)
    if too_slow == 0:
        raise BudgetError(
            f"no assignment of fits runs in {limit:g} s" + (" at the accuracy asked for" if drop is not None else ""),
            f"the cheapest takes {frontier[first].depth} levels for activations and is predicted to need "
            f"{seconds(first):.3g} s",
            hint="a larger --max-latency, or fewer nonlinearities",
        )
    return frontier[first + too_slow - 1]


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The first index at which a property holds, if it holds from there on; count if nowhere."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def answers(c: Compilation) -> IntArray:
    """What the original network answers (its largest output) on the calibration samples."""
    samples, _ = samples_of(c.calibration)
    return _largest(c, evaluate(c.graph, samples))


def lost_answers(c: Compilation, exact: IntArray) -> float:
    """Fraction of calibration samples whose answer changes; all of them if the network diverges."""
    try:
        return float((_largest(c, polynomial_answers(c)) != exact).mean())
    except CalibrationError:
        return 1.0


def _largest(c: Compilation, outputs: dict[str, FloatArray]) -> IntArray:
    first = outputs[c.graph.output_names[0]]
    return np.asarray(first.reshape(len(first), -1).argmax(axis=1), dtype=np.int64)


def planned_seconds(c: Compilation) -> float:
    """Predicted seconds of one run; infinite where nothing fits. An open batch is chosen later, within the limit."""
    if c.options.batch == "auto":
        c = replace(c, options=replace(c.options, batch=1))
    try:
        planned = schedule(fold(approximate(c)))
    except (BudgetError, CalibrationError):
        return float("inf")
    return sum(Compilation.require(planned.cost, "choose", "schedule").seconds.values())
