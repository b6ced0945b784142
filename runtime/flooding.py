"""Noise over decrypted values that leave the owner of the secret key.

A decrypted CKKS value is off by a noise that depends on the secret key: whoever sees decryptions of
ciphertexts that he knows can solve for the key (Li and Micciancio, EUROCRYPT 2021; the model is called
IND-CPA-D). Gaussian noise over every released value hides that (Li, Micciancio, Schultz and Sorrell,
CRYPTO 2022). With

    sigma = 8 sqrt(q) 2^(k/2) t,    t = sqrt(m) e

k bits of security are left after q releases of m values each, where no value is off by more than e:
two Gaussians whose centers are t apart have Kullback-Leibler divergence t^2 / (2 sigma^2) = 2^-(k+7) / q,
and the divergences of q releases add up. The price is log2(sigma / e) = 3 + (k + log2 q + log2 m) / 2
bits of precision.

The bound e is a prediction, ``MARGIN`` times the largest error that backend ``sim`` finds on the inputs
at hand. It is not a proof against inputs that somebody chose so that a network amplifies noise more.

Values and noise are rounded to multiples of a step far below e and added as whole numbers: the last bits
of a sum of floating-point numbers would show what was added (Mironov, CCS 2012).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pi_compiler.errors import ExecutionError, ParameterError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.runtime.randomness import fill, wiped

MARGIN = 4.0
"""How much larger than the simulated error the bound is."""

MAX_BITS = 64
_FINER = 10
"""Bits by which the step is below the bound."""


@dataclass(frozen=True, slots=True)
class Flood:
    """How much noise goes over released values.

    Attributes:
        bits: k, the security that is left after all releases.
        releases: q, how many decrypted inputs may leave under one key.
        error: e, bound of the error of one released value.

    Raises:
        ParameterError: a number is out of range.
    """

    bits: int
    releases: int
    error: float

    def __post_init__(self) -> None:
        faults = []
        if not 1 <= self.bits <= MAX_BITS:
            faults.append(f"bits={self.bits} must be in [1, {MAX_BITS}]")
        if not 1 <= self.releases <= 1 << 40:
            faults.append(f"releases={self.releases} must be in [1, 2^40]")
        if not 2.0**-200 < self.error < 2.0**200:
            faults.append(f"error={self.error} must be positive and finite")
        if faults:
            raise ParameterError("the noise over released values is out of range", *faults)

    def deviation(self, values: int) -> float:
        """Standard deviation of the noise over each of so many values of one release."""
        return 8 * math.sqrt(self.releases * values) * 2 ** (self.bits / 2) * self.error

    def apply(self, released: Mapping[str, FloatArray], values: int) -> dict[str, FloatArray]:
        """The tensors with noise.

        Args:
            released: one or several releases by output name.
            values: how many values, of all outputs together, make one release.

        Raises:
            ExecutionError: a value is not finite, or too large beside the error bound to be rounded.
        """
        step = 2.0 ** (math.floor(math.log2(self.error)) - _FINER)
        width = self.deviation(values) / step
        found: dict[str, FloatArray] = {}
        for name, x in released.items():
            units = np.rint(np.asarray(x, np.float64) / step)
            if not (np.abs(units) < 2.0**62).all():
                raise ExecutionError(f"output {name!r} has values that no noise can be put over")
            noise = gaussian(x.size).reshape(x.shape)
            noise *= width
            whole, over = units.astype(np.int64), np.rint(noise).astype(np.int64)
            with wiped(noise, units, whole, over):
                found[name] = (whole + over).astype(np.float64) * step
        return found


def gaussian(count: int) -> FloatArray:
    """Independent normal variables of standard deviation 1, at most 9.4 in magnitude (Box and Muller, 1958)."""
    half = (count + 1) // 2
    words = np.empty(2 * half, np.uint64)
    fill(words)
    with wiped(words):
        radius = np.sqrt(-2 * np.log((words[:half].astype(np.float64) + 0.5) * 2.0**-64))
        angle = words[half:].astype(np.float64) * (2 * math.pi * 2.0**-64)
        with wiped(radius, angle):
            return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
