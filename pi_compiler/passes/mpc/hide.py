"""Hide: places that the owner's mask hides get scores far below all others, before a softmax on shares.

The owner adds the distance to zeros and ones that it has in clear, so that hiding costs one shared input and no round.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pi_compiler.ir.graph import FloatArray, Node
from pi_compiler.ops.evaluate import evaluate
from pi_compiler.ops.linear import affine
from pi_compiler.ops.shaping import expand
from pi_compiler.passes.calibrate import check_samples, samples_of
from pi_compiler.passes.compilation import Compilation
from pi_compiler.passes.forms import rewritten

_BELOW = 14.0
"""Natural logarithm of how much smaller a hidden weight is than the largest of its row, at the least: 2^-20."""


def hide(c: Compilation) -> Compilation:
    """Graph and samples -> graph without masks that the data's owner has."""
    masked = [n for n in c.graph.nodes() if n.op == "InnerSoftmax" and len(n.inputs) > 1]
    if not masked:
        return c
    check_samples(c.graph, c.calibration)
    samples, _ = samples_of(c.calibration)
    spread: dict[int, float] = {}

    def look(node: Node, values: FloatArray) -> None:
        for softmax in masked:
            if node is softmax.inputs[0]:
                spread[id(softmax)] = float(np.ptp(values))

    evaluate(c.graph, samples, keep=look)
    change: dict[Node, Node] = {}
    for node in masked:
        scores, places = node.inputs
        far, name = c.options.margin * spread[id(node)] + _BELOW, f"{node.origin}/mask"
        below = expand(affine(places, far, -far, name), node.shape, name)
        change[node] = replace(node, inputs=(Node("Add", (scores, below), node.shape, {}, name),))
    return replace(c, graph=rewritten(c.graph, change))
