"""Front: what the client computes before it encrypts leaves the network."""

from __future__ import annotations

from dataclasses import replace

from pi_compiler.errors import CalibrationError
from pi_compiler.ir.graph import Graph
from pi_compiler.ops.front import encrypted_inputs, numbers_outside, split
from pi_compiler.passes.calibrate import check_samples
from pi_compiler.passes.compilation import Compilation


def front(c: Compilation) -> Compilation:
    """Graph and samples -> the front, the graph behind it, and samples of what is encrypted.

    Raises:
        CalibrationError: samples hold numbers that no row of a table has.
    """
    before, rest = split(c.graph, lookups=c.options.embedding == "client")
    if before is None:
        return c
    check_samples(c.graph, c.calibration)
    if faults := numbers_outside(before, c.calibration):
        raise CalibrationError("the calibration data cannot be used", *faults)
    samples = encrypted_inputs(before, c.calibration)
    return replace(c, front=before, graph=rest, calibration=samples, notes=(*c.notes, _told(before)))


def _told(front: Graph) -> str:
    tables = sorted({n.origin for n in front.nodes() if n.op == "Embedding"})
    if not tables:
        return f"the client computes before encrypting: {', '.join(front.output_names)}"
    return f"the client looks its own numbers up before encrypting, and so knows the tables: {', '.join(tables)}"
