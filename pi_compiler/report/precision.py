"""Does the plan keep the precision that was asked for? Simulated on calibration samples before anyone encrypts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from pi_compiler.errors import ExecutionError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import Program, Signature
from pi_compiler.runtime.session import Session

Values: TypeAlias = Mapping[str, FloatArray]

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
    runs = min(-(-_SAMPLES // program.batch), int(_TOO_MUCH_WORK // max(work, 1)))
    count = min(runs * program.batch, *(len(x) for x in calibration.values()))
    if count < 1:
        return None
    samples = {name: x[:count] for name, x in calibration.items()}
    exact = Session(program, params, signature, "clear", insecure=insecure).run(samples).logits
    try:
        noisy = Session(program, params, signature, "sim", insecure=insecure).run(samples).logits
    except ExecutionError:
        return float("-inf")
    return bits_kept(exact, noisy)


def bits_kept(exact: Values, found: Values) -> float:
    """-log2 of the largest difference, relative to the largest exact value over all outputs."""
    error = max(float(np.abs(found[n] - exact[n]).max()) for n in exact)
    top = max(float(np.abs(v).max()) for v in exact.values())
    if error == 0:
        return math.inf
    return -math.log2(error / top) if top > 0 else -math.inf
