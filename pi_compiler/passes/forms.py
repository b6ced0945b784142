"""Forms: softmax and layer normalization become sums, products, exponentials and inverses.

Without retraining a softmax stays itself (``--softmax max-exp``: exponentials of the scores less their largest one on
calibration data, divided by their mean; or ``normalize-square``), or becomes one of the replacements that are to be
trained in, for all layers or one. Every divisor and variance gets its certified interval here, from calibration and
from what its form guarantees: a mean of squares plus eps never falls below eps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, log2
from typing import cast

import numpy as np

from pi_compiler.errors import CalibrationError, ParameterError
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops import forms as write
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.ops.joint import HIDDEN
from pi_compiler.ops.op import array, number, optional_array
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
    if not joint and not any(_divisor(n) is not None for n in c.graph.nodes()):
        return c
    check_samples(c.graph, c.calibration)
    samples, kept = samples_of(c.calibration)
    graph = _written(c.graph, joint, c.options, samples, kept)
    notes = tuple(_told(n, c.options) for n in joint)
    front = {} if c.front is None else dict(zip(c.front.output_names, c.front.outputs, strict=True))
    return replace(c, graph=_certified(graph, front, c.options, samples, kept), notes=(*c.notes, *notes))


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


def _told(node: Node, options: Options) -> str:
    if node.op == "LayerNorm":
        return f"layer {node.origin!r} (LayerNormalization): mean, variance, inverse square root, products"
    wanted = options.softmax_of(node.origin)
    trained = "" if wanted.exact else "; train it in, it is no approximation of softmax"
    return f"layer {node.origin!r} (Softmax): {wanted.told()}{trained}"


def _written(graph: Graph, joint: list[Node], options: Options, samples: Mapping[str, FloatArray], kept: int) -> Graph:
    """The graph with each joint function in its form."""
    scores: dict[int, tuple[float, float]] = {}

    def look(node: Node, values: FloatArray) -> None:
        for softmax in joint:
            if softmax.op == "InnerSoftmax" and node is softmax.inputs[0]:
                scores[id(softmax)] = _score_range(softmax, values[:kept])

    if any(n.op == "InnerSoftmax" for n in joint):
        evaluate(graph, samples, keep=look)
    hidden = [n for n in joint if id(n) in scores and scores[id(n)][0] < HIDDEN]
    if hidden:
        raise CalibrationError(
            "a mask is not known as one",
            *(f"layer {n.origin!r}: scores reach {scores[id(n)][0]:.4g}, needed: above {HIDDEN:g}" for n in hidden),
            hint="masks that are constants, or zeros and ones in an input of whole numbers",
        )
    change = {
        n: write.layer_norm(n.inputs[0], n) if n.op == "LayerNorm" else _form(n, scores[id(n)], options) for n in joint
    }
    return rewritten(graph, change)


def _form(node: Node, scores: tuple[float, float], options: Options) -> Node:
    """A softmax in the form that its layer is to have; scores are those of calibration."""
    x, wanted, (low, high) = node.inputs[0], options.softmax_of(node.origin), scores
    match wanted.form:
        case "max-exp":
            return write.exponential_softmax(x, node, high)
        case "normalize-square":
            rounds = max(1, ceil(log2(max(options.margin * (high - low), 1e-9) / _NARROW)))
            return write.normalize_square(x, node, high, rounds if wanted.number is None else int(wanted.number))
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
