"""Front: what the client computes before it encrypts leaves the network."""

from __future__ import annotations

from dataclasses import replace

from pi_compiler.errors import CalibrationError
from pi_compiler.ops.front import encrypted_inputs, numbers_outside, split
from pi_compiler.passes.calibrate import check_samples
from pi_compiler.passes.compilation import Compilation


def front(c: Compilation) -> Compilation:
    """Graph and samples -> the front, the graph behind it, and samples of what is encrypted.

    Raises:
        CalibrationError: samples hold numbers that no row of a table has.
    """
    before, rest = split(c.graph)
    if before is None:
        return c
    check_samples(c.graph, c.calibration)
    if faults := numbers_outside(before, c.calibration):
        raise CalibrationError("the calibration data cannot be used", *faults)
    looked_up = sorted({n.origin for n in before.nodes() if n.op == "Embedding"})
    note = (
        f"the client computes before encrypting, and so knows: {', '.join(looked_up) or 'the conversion of its input'}"
    )
    samples = encrypted_inputs(before, c.calibration)
    return replace(c, front=before, graph=rest, calibration=samples, notes=(*c.notes, note))
