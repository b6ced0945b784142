"""Forms: softmax and layer normalization become sums, products, exponentials and inverses.

Without retraining a softmax stays itself (``--softmax max-exp``: exponentials of the scores less their largest one on
calibration data, divided by their mean; or ``normalize-square``), or nearly so (``cgf``, which takes a row's scores for
normal), or becomes one of the replacements that are to be trained in, for all layers or one. Every divisor and variance
gets its certified interval here, from calibration and from what its form guarantees: a mean of squares plus eps never
falls below eps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import cast

import numpy as np

from pi_compiler.errors import CalibrationError, ParameterError
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops import forms as write
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.ops.front import handed_over, without_unread
from pi_compiler.ops.joint import HIDDEN
from pi_compiler.ops.op import array, integer, number, optional_array
from pi_compiler.ops.shaping import MOVES
from pi_compiler.options import FORMS, Options, Softmax
from pi_compiler.passes.calibrate import check_samples, samples_of
from pi_compiler.passes.compilation import Compilation

EPS = 1e-3
"""What is added to the mean of fourth powers, which is at most 1 on calibration data."""
_NARROW = 4.0
"""How wide the interval of an exponential is that needs no further round of squaring and normalizing."""
_INVERSES = ("Reciprocal", "InverseSqrt")
_NEVER_NEGATIVE = ("Square", "Exp", "Abs", "Sigmoid")
_ROUNDING = 1e-4
_SPREAD = 3.0
"""How much larger than any exponent that occurs the largest score may be over the least value of a row: e³ = 20 times
the error."""


def forms(c: Compilation) -> Compilation:
    """Graph and samples -> graph without softmax and layer normalization, its divisors with their intervals.

    Under MPC only softmaxes that have no lowering of their own are written here.

    Raises:
        CalibrationError: a divisor or a variance reaches zero, or a mask is not known as one; all in one message.
        ParameterError: a form compares, or ``options.softmaxes`` names layers that do not exist.
    """
    softmaxes = [n for n in c.graph.nodes() if n.op == "InnerSoftmax"]
    _check(softmaxes, c.options)
    if c.options.target == "mpc":
        joint = [n for n in softmaxes if not _on_shares(c.options.softmax_of(n.origin))]
    else:
        joint = [n for n in c.graph.nodes() if n.op in ("InnerSoftmax", "LayerNorm")]
    split = c.options.target == "ckks" and any(_less_a_row(n) for n in c.graph.nodes())
    if not (joint or split or any(_divisor(n) is not None for n in c.graph.nodes())):
        return c
    check_samples(c.graph, c.calibration)
    c, shares = _with_shares(c, [n for n in joint if n.op == "InnerSoftmax" and _is_cgf(n, c.options)])
    samples, kept = samples_of(c.calibration)
    seen = _seen(c.graph, [n for n in joint if n.op == "InnerSoftmax"], c.options, samples, kept)
    change = {
        n: write.layer_norm(n.inputs[0], n) if n.op == "LayerNorm" else _form(n, seen[n], c.options, shares.get(n))
        for n in joint
    }
    graph, front = rewritten(c.graph, change), c.front
    if shares:
        front, graph = without_unread(front, graph)
        samples = {n.origin: samples[n.origin] for n in graph.inputs}
    if c.options.target == "ckks":
        graph = _split(graph, samples, kept)
    made = {} if front is None else dict(zip(front.output_names, front.outputs, strict=True))
    return replace(
        c,
        front=front,
        graph=_certified(graph, made, c.options, samples, kept),
        calibration={n.origin: c.calibration[n.origin] for n in graph.inputs},
        notes=(*c.notes, *(_told(n, c.options, seen.get(n)) for n in joint)),
    )


def _split(graph: Graph, samples: Mapping[str, FloatArray], kept: int) -> Graph:
    """Exponentials of differences from a value per row become a product with a factor per row.

    Encrypted, spreading a value over its row takes a map of as many diagonals as the row is long, and a factor takes
    rotations only; it also moves behind the next product of matrices (``commute``). Errors of the parts grow by how far
    the largest score over the lowest row is above any exponent that occurs, so rows that differ much stay as they are.
    """
    wanted = [n for n in graph.nodes() if _less_a_row(n)]
    ends: dict[Node, tuple[float, float]] = {}
    needed = {i for n in wanted for i in (n.inputs[0], n.inputs[0].inputs[0], n.inputs[0].inputs[1].inputs[0])}

    def look(node: Node, values: FloatArray) -> None:
        if node in needed:
            ends[node] = float(values[:kept].min()), float(values[:kept].max())

    if wanted:
        evaluate(graph, samples, keep=look)
    change = {}
    for node in wanted:
        difference = node.inputs[0]
        x, row = difference.inputs[0], difference.inputs[1].inputs[0]
        high, low = ends[x][1], ends[row][0]
        if high - low - ends[difference][1] < _SPREAD:
            change[node] = write.split_exponential(node, high, low)
            change |= {s: replace(s, attrs={**s.attrs, "rotations": 1}) for s in _sums_below(row)}
    return rewritten(graph, change)


def _less_a_row(node: Node) -> bool:
    """Whether a node is an exponential of a difference from a value that is the same along the last axis."""
    if node.op != "Exp" or node.inputs[0].op != "Sub" or node.inputs[0].inputs[1].op != "Expand":
        return False
    row = node.inputs[0].inputs[1].inputs[0]
    return node.shape[-1] > 1 and row.shape == (*node.shape[:-1], 1)


def _sums_below(row: Node) -> Iterator[Node]:
    """Sums over an axis that values of a row follow from without leaving the row's shape."""
    if row.op in ("ReduceSum", "ReduceMean"):
        yield row
    elif all(i.shape == row.shape for i in row.inputs):
        for operand in row.inputs:
            yield from _sums_below(operand)


def _is_cgf(node: Node, options: Options) -> bool:
    return options.softmax_of(node.origin).form == "cgf"


def _with_shares(c: Compilation, softmaxes: list[Node]) -> tuple[Compilation, dict[Node, Node]]:
    """The owner of masks that are inputs also sends open places over how many a row has; the input of each softmax."""
    made = {n.origin: write.shares_of_open(n) for n in softmaxes}
    wanted = {name: share for name, share in made.items() if share is not None}
    if not wanted:
        return c, {}
    front, graph, ports = handed_over(c.front, c.graph, wanted)
    names = tuple(ports[name].origin for name in wanted)
    sent = evaluate(Graph(c.graph.inputs, tuple(wanted.values()), names), c.calibration)
    c = replace(c, front=front, graph=graph, calibration={**c.calibration, **sent})
    return c, {n: ports[n.origin] for n in softmaxes if n.origin in ports}


def _on_shares(wanted: Softmax) -> bool:
    """Whether MPC has a lowering of its own for a form."""
    return wanted.form in ("max-exp", "2quad", "2relu", "power") and wanted.number in (None, FORMS[wanted.form].default)


def _check(softmaxes: list[Node], options: Options) -> None:
    known = {n.origin for n in softmaxes}
    if unknown := sorted(set(options.softmaxes) - known):
        raise ParameterError(
            f"--softmax names layers that are no softmax inside the network: {', '.join(unknown)}",
            f"those of this model: {', '.join(sorted(known)) or 'none'}",
        )
    compared = [n.origin for n in softmaxes if options.softmax_of(n.origin).form == "2relu"]
    if compared and options.target == "ckks":
        raise ParameterError(
            f"--softmax 2relu compares, which encrypted numbers cannot: layer {', '.join(map(repr, compared))}",
            hint="--softmax max-exp, power or relu; --target mpc compares",
        )


def _told(node: Node, options: Options, seen: _Seen | None) -> str:
    if seen is None:
        return f"layer {node.origin!r} (LayerNormalization): mean, variance, inverse square root, products"
    wanted = options.softmax_of(node.origin)
    told = "" if wanted.exact else "; train it in, it is no approximation of softmax"
    if wanted.form == "cgf":
        told = (
            f"; on calibration data weights are within {seen.error:.2g} of softmax's, whose largest is "
            f"{seen.largest:.2g}; train it in if that is too far"
        )
    return f"layer {node.origin!r} (Softmax): {wanted.told()}{told}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What calibration showed of a softmax.

    Attributes:
        low: the least score of a place that is not hidden.
        high: the largest one.
        largest: weight.
        peak: the largest weight relative to its row's mean weight.
        error: how far weights by ``cgf`` are from softmax's.
    """

    low: float
    high: float
    largest: float = 1.0
    peak: float = 1.0
    error: float = 0.0


def _seen(
    graph: Graph, softmaxes: list[Node], options: Options, samples: Mapping[str, FloatArray], kept: int
) -> dict[Node, _Seen]:
    found: dict[Node, _Seen] = {}
    expanded = {n.inputs[0]: n for n in softmaxes if _is_cgf(n, options)}
    scores: dict[Node, FloatArray] = {}

    def look(node: Node, values: FloatArray) -> None:
        for softmax in softmaxes:
            if node is softmax.inputs[0]:
                found[softmax] = _Seen(*_score_range(softmax, values[:kept]))
        if node in expanded:
            scores[expanded[node]] = values[:kept]
        if node in scores:
            found[node] = _compared(found[node], scores.pop(node), values[:kept], integer(node, "axis") + 1)

    if softmaxes:
        evaluate(graph, samples, keep=look)
    hidden = [n for n in softmaxes if found[n].low < HIDDEN]
    if hidden:
        raise CalibrationError(
            "a mask is not known as one",
            *(f"layer {n.origin!r}: scores reach {found[n].low:.4g}, needed: above {HIDDEN:g}" for n in hidden),
            hint="masks that are constants, or zeros and ones in an input of whole numbers",
        )
    return found


def _compared(seen: _Seen, x: FloatArray, weights: FloatArray, axis: int) -> _Seen:
    """What the second cumulant makes of scores, beside softmax's weights."""
    opened = weights > 0.0
    count = opened.sum(axis=axis, keepdims=True)
    centered = np.where(opened, x - x.mean(axis=axis, keepdims=True, where=opened), 0.0)
    variance = np.square(centered).sum(axis=axis, keepdims=True) / count
    found = opened * np.exp(centered - variance / 2.0) / count
    error = float(np.abs(found - weights).max())
    return replace(seen, largest=float(weights.max()), peak=float((weights * count).max()), error=error)


def _form(node: Node, seen: _Seen, options: Options, shares: Node | None) -> Node:
    """A softmax in the form that its layer is to have."""
    x, wanted, low, high = node.inputs[0], options.softmax_of(node.origin), seen.low, seen.high
    match wanted.form:
        case "max-exp":
            return write.exponential_softmax(x, node, high)
        case "normalize-square":
            rounds = max(1, ceil(log2(max(options.margin * (high - low), 1e-9) / _NARROW)))
            return write.normalize_square(x, node, high, rounds if wanted.number is None else int(wanted.number))
        case "cgf":
            return write.cgf_softmax(x, node, seen.peak, shares)
        case "2quad":
            # The published 5, or as much as keeps the smallest score's square above 1.
            shift = max(5.0, 1.0 - low * options.margin) if wanted.number is None else wanted.number
            return write.two_quad(x, node, shift)
        case "power":
            power = int(wanted.number or FORMS["power"].default or 0)
            return write.power_softmax(x, node, power, EPS, 1.0 / max(abs(low), abs(high), 1e-30))
    return write.over_length(x, node, wanted.form)


def rewritten(graph: Graph, change: Mapping[Node, Node]) -> Graph:
    """Like ``Graph.rewrite``, for replacements of several new nodes."""
    new: dict[int, Node] = {}

    def rebuilt(node: Node) -> Node:
        if id(node) not in new:
            operands = tuple(rebuilt(i) for i in node.inputs)
            same = all(a is b for a, b in zip(operands, node.inputs, strict=True))
            new[id(node)] = node if same else replace(node, inputs=operands)
        return new[id(node)]

    for node in graph.nodes():
        target = change.get(node)
        made = rebuilt(node if target is None else target)
        new[id(node)] = made
    return replace(
        graph,
        inputs=tuple(new[id(n)] for n in graph.inputs),
        outputs=tuple(new[id(n)] for n in graph.outputs),
    )


def _score_range(node: Node, x: FloatArray) -> tuple[float, float]:
    """Of the places that are not hidden."""
    mask = optional_array(node, "mask")
    seen = x if mask is None else x[np.broadcast_to(mask > 0.0, x.shape)]
    return float(seen.min()), float(seen.max())


def _divisor(node: Node) -> Node | None:
    """The mean or sum that a node inverts, if that is what it does."""
    if node.op not in _INVERSES or "interval" in node.attrs:
        return None
    mean = node.inputs[0].inputs[0] if node.inputs[0].op == "Affine" else node.inputs[0]
    return mean if mean.op in ("ReduceMean", "ReduceSum") else None


def _floor(node: Node, front: Mapping[str, Node]) -> float:
    """What the operand of an inverse never falls below, whatever the data."""
    operand, mean = node.inputs[0], _divisor(node)
    if operand.op != "Affine" or mean is None:
        return 0.0
    if not _never_negative(mean.inputs[0], front) or (array(operand, "scale") < 0.0).any():
        return 0.0
    return max(0.0, float(array(operand, "shift").min()))


def _never_negative(node: Node, front: Mapping[str, Node]) -> bool:
    """Whether a value is at least 0 by its form; ``front``: what makes the inputs, by their names."""
    scale, shift = 1.0, 0.0
    while node.op in MOVES or (node.op == "Affine" and array(node, "scale").size == array(node, "shift").size == 1):
        if node.op == "Affine":
            shift += scale * float(array(node, "shift").reshape(-1)[0])
            scale *= float(array(node, "scale").reshape(-1)[0])
        node = node.inputs[0]
    if node.op == "IsLess":
        return shift >= 0.0 and shift + scale >= 0.0
    if scale < 0.0 or shift < 0.0:
        return False
    if node.op == "Affine":
        positive = (array(node, "scale") >= 0.0).all() and (array(node, "shift") >= 0.0).all()
        return bool(positive) and _never_negative(node.inputs[0], front)
    if node.op == "Mul":
        return all(_never_negative(i, front) for i in node.inputs)
    if node.op == "Poly":
        return node.attrs["basis"] == "power" and _is_square(array(node, "coef"))
    if node.op == "Embedding":
        return bool((array(node, "table") >= 0.0).all())
    if node.op == "Input":
        return node.origin in front and _never_negative(front[node.origin], {})
    return node.op in _NEVER_NEGATIVE or (node.op == "Pow" and number(node, "exponent") % 2 == 0)


def _is_square(coef: FloatArray) -> bool:
    """Whether a polynomial (degree + 1, ...) is at least 0 but for rounding: even powers, or a quadratic."""
    if bool((coef >= 0.0).all()) and not coef[1::2].any():
        return True
    if len(coef) != 3 or not (coef[2] > 0.0).all():
        return False
    return bool((coef[0] - coef[1] ** 2 / (4.0 * coef[2]) >= -_ROUNDING * np.abs(coef[0])).all())


def _certified(
    graph: Graph, front: Mapping[str, Node], options: Options, samples: Mapping[str, FloatArray], kept: int
) -> Graph:
    """The graph with an interval at each inverse of a mean."""
    wanted = {id(n.inputs[0]): n for n in graph.nodes() if _divisor(n) is not None}
    change: dict[Node, Node] = {}
    faults: list[str] = []

    def look(operand: Node, values: FloatArray) -> None:
        node = wanted.get(id(operand))
        if node is None:
            return
        low, high = float(values[:kept].min()), float(values[:kept].max())
        what = "variance" if node.op == "InverseSqrt" else "denominator"
        if not (low > 0.0 and np.isfinite(high)):
            faults.append(f"layer {node.origin!r}: the {what} is in [{low:.4g}, {high:.4g}], needed is one above 0")
            return
        # Squares of values that are wider by the margin.
        widen = options.margin**2
        least, most = cast(tuple[float, float], node.attrs.get("bounds", (0.0, np.inf)))
        interval = (max(low / widen, _floor(node, front), least), min(high * widen, most))
        change[node] = replace(node, attrs={**node.attrs, "interval": interval})

    evaluate(graph, samples, keep=look)
    if faults:
        raise CalibrationError(
            "a division reaches zero on calibration data",
            *faults,
            hint="a larger epsilon, or training that keeps it in a band (pi_compiler.models.training.transformers)",
        )
    return graph.rewrite(change)
