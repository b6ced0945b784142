"""Does the plan keep the precision that was asked for? Simulated on calibration samples before anyone encrypts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pi_compiler.errors import ExecutionError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import Program, Signature
from pi_compiler.runtime.session import Session

_SAMPLES = 4
_TOO_MUCH_WORK = 2.5e9
"""Instructions times slots times samples above which the simulation is left out (about a minute)."""


def simulated_bits(
    program: Program, params: Params, signature: Signature, calibration: Mapping[str, FloatArray], insecure: bool
) -> float | None:
    """Bits of the outputs that CKKS noise leaves, relative to the largest output seen.

    The worst of a few calibration samples: -log2(max|sim - clear| / max|clear|). None if the
    program is too large to simulate in passing; -inf if a value wraps around the modulus.
    """
    work = len(program) * params.slots
    count = min(_SAMPLES, int(_TOO_MUCH_WORK // max(work, 1)), *(len(x) for x in calibration.values()))
    if count < 1:
        return None
    samples = {name: x[:count] for name, x in calibration.items()}
    exact = Session(program, params, signature, "clear", insecure=insecure).run(samples).logits
    try:
        noisy = Session(program, params, signature, "sim", insecure=insecure).run(samples).logits
    except ExecutionError:
        return float("-inf")
    error = max(float(np.abs(noisy[n] - exact[n]).max()) for n in exact)
    size = max(float(np.abs(v).max()) for v in exact.values())
    return float("inf") if error == 0.0 else float(np.log2(size / error)) if size > 0.0 else float("-inf")
