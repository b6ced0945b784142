"""Calibrate: what range does every value take on the user's data?

The last fifth of the samples is held out: intervals come from the others, and how often held-out
values leave an interval is what the certificate reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pi_compiler.errors import CalibrationError
from pi_compiler.ir.graph import FloatArray, Graph, Node
from pi_compiler.ops import OPS
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.passes.compilation import Compilation, Range, Ranges, by_channel, summarize, thinned

MAX_SAMPLES = 1024
"""More samples than this are thinned evenly: ranges hardly change, time does."""

TOO_LARGE = 1e30
"""Values beyond this count as not finite."""


def check_samples(graph: Graph, calibration: Mapping[str, FloatArray]) -> None:
    """Fail early on what calibration cannot use.

    Raises:
        CalibrationError: naming every fault.
    """
    faults = []
    for node in graph.inputs:
        x = calibration.get(node.origin)
        if x is None:
            faults.append(f"no samples for input {node.origin!r}")
        elif x.shape[0] == 0:
            faults.append(f"the sample set of input {node.origin!r} is empty")
        elif x.dtype.kind not in "fiub":
            faults.append(f"samples of input {node.origin!r} have type {x.dtype}, needed are real numbers")
        elif not np.isfinite(x).all():
            bad = int((~np.isfinite(x)).sum())
            faults.append(f"samples of input {node.origin!r} hold {bad} values that are NaN or infinite")
    if faults:
        raise CalibrationError("the calibration data cannot be used", *faults)


def calibrate(c: Compilation) -> Compilation:
    """Graph and samples -> ranges of every value."""
    check_samples(c.graph, c.calibration)
    samples, kept = samples_of(c.calibration)
    activations = {id(n.inputs[0]) for n in c.graph.nodes() if n.op != "Input" and OPS[n.op].kind == "nonlinear"}
    ranges: dict[int, Range] = {}
    faults: list[str] = []

    def look(node: Node, values: FloatArray) -> None:
        if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > TOO_LARGE:
            faults.append(f"layer {node.origin!r} ({node.op}) yields values that are not finite")
            return
        ranges[id(node)] = observe(node, values, kept, full=id(node) in activations)

    with np.errstate(all="ignore"):
        evaluate(c.graph, samples, keep=look)
    if faults:
        raise CalibrationError(
            "calibration data drive the network to values that are not finite",
            *faults[:5],
            hint="check the scaling of the data against what the model was trained on",
        )
    return replace(c, ranges=Ranges(ranges))


def samples_of(calibration: Mapping[str, FloatArray]) -> tuple[dict[str, FloatArray], int]:
    """The samples that are used, and how many of them, from the front, are not held out."""
    samples = {name: thin(x) for name, x in calibration.items()}
    count = min(len(x) for x in samples.values())
    return samples, count - count // 5 if count >= 10 else count


def observe(node: Node, values: FloatArray, kept: int, full: bool = False) -> Range:
    """The range of a node's values (B, *shape) over the first ``kept`` samples.

    Args:
        node: whose values.
        values: for all samples.
        kept: samples that count; the others are held out.
        full: also quantiles, density and the held-out values, which activations need.
    """
    held_out = None
    axis = 2 if len(node.shape) >= 2 else None
    if full and kept < len(values):
        held_out = thinned(by_channel(values[kept:], axis))
    return summarize(values[:kept], axis, held_out, full)


def thin(x: FloatArray) -> FloatArray:
    """At most ``MAX_SAMPLES`` samples, evenly spread."""
    if len(x) <= MAX_SAMPLES:
        return x
    return x[np.linspace(0, len(x) - 1, MAX_SAMPLES).round().astype(np.int64)]
