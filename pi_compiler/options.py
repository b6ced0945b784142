"""Options of a compilation: one frozen record, validated where it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pi_compiler.errors import ParameterError

Target = Literal["ckks"]


@dataclass(frozen=True, slots=True)
class Activation:
    """How a nonlinearity is replaced.

    Attributes:
        method: ``"auto"`` (exact where it is a polynomial, else Chebyshev of the least degree that
            reaches ``Options.activation_error``), ``"quadratic"`` (least squares weighted by the
            calibration density) or ``"chebyshev"``.
        degree: for ``"chebyshev"``: the degree; None chooses it by the wanted error.
    """

    method: Literal["auto", "quadratic", "chebyshev"] = "auto"
    degree: int | None = None

    @staticmethod
    def parse(text: str) -> Activation:
        """``auto``, ``quadratic``, ``chebyshev`` or ``chebyshev:D``.

        Raises:
            ParameterError: anything else.
        """
        name, _, degree = text.partition(":")
        if name in ("auto", "quadratic") and not degree:
            return Activation("auto" if name == "auto" else "quadratic")
        if name == "chebyshev" and (not degree or (degree.isdigit() and 1 <= int(degree) <= 1023)):
            return Activation("chebyshev", int(degree) if degree else None)
        raise ParameterError(
            f"activation {text!r} is not known", "known: auto, quadratic, chebyshev, chebyshev:D with 1 <= D <= 1023"
        )


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for.

    Attributes:
        activation: replacement of every nonlinearity without an entry of its own.
        activations: replacement by ONNX node name.
        activation_error: largest absolute error of an automatic replacement.
        margin: half width of an approximation interval relative to the calibrated range's.
        precision_bits: bits of the outputs, relative to the largest calibrated one, that
            noise must leave intact.
        maxpool: what to do with MaxPool.
        log_n: ring degree to use; None lets the planner choose.
        log_scale: scale to use; None lets the planner choose.
        max_input_ciphertexts: most ciphertexts that the client may send for one input.
        backend: the backend that the plan is made for (its limits and its costs).
        insecure: allow parameters below 128-bit security.
    """

    activation: Activation = field(default_factory=Activation)
    activations: Mapping[str, Activation] = field(default_factory=dict)
    activation_error: float = 2.0**-7
    margin: float = 1.2
    precision_bits: float = 10.0
    maxpool: Literal["refuse", "average"] = "refuse"
    log_n: int | None = None
    log_scale: float | None = None
    max_input_ciphertexts: int = 16
    backend: str = "tenseal"
    insecure: bool = False

    def __post_init__(self) -> None:
        faults = []
        if not 0 < self.activation_error < 10:
            faults.append(f"activation_error={self.activation_error} must be in (0, 10)")
        if not 1.0 <= self.margin <= 100:
            faults.append(f"margin={self.margin} must be in [1, 100]")
        if not 1 <= self.precision_bits <= 40:
            faults.append(f"precision_bits={self.precision_bits} must be in [1, 40]")
        if self.log_n is not None and not 10 <= self.log_n <= 16:
            faults.append(f"log_n={self.log_n} must be in [10, 16]")
        if self.log_scale is not None and not 15 <= self.log_scale <= 55:
            faults.append(f"log_scale={self.log_scale} must be in [15, 55]")
        if not 1 <= self.max_input_ciphertexts <= 1024:
            faults.append(f"max_input_ciphertexts={self.max_input_ciphertexts} must be in [1, 1024]")
        if faults:
            raise ParameterError("options are out of range", *faults)
