"""Options of a compilation: one frozen record, validated where it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pi_compiler.errors import ParameterError

Target: TypeAlias = Literal["ckks", "mpc"]
Embedding: TypeAlias = Literal["client", "secret"]


@dataclass(frozen=True, slots=True)
class Softmax:
    """What an inner softmax becomes.

    Attributes:
        form: a key of ``FORMS``.
        number: what the form's line there says; None takes its default.
    """

    form: str = "max-exp"
    number: float | None = None

    @staticmethod
    def parse(text: str) -> Softmax:
        """``FORM`` or ``FORM:NUMBER``.

        Raises:
            ParameterError: anything else.
        """
        name, colon, given = text.partition(":")
        form = FORMS.get(name)
        number = _number(given) if colon else None
        if form is not None and (number is not None) == bool(colon) and (number is None or form.takes(number)):
            return Softmax(name, number)
        known = [f"{n}[:{f.number}]" if f.number else n for n, f in FORMS.items()]
        raise ParameterError(f"softmax {text!r} is not known", f"known: {', '.join(known)}")

    @property
    def exact(self) -> bool:
        """Whether it is softmax but for the errors of fits.

        ``cgf`` is as far from it as scores are from normal ones; the others are to be trained in.
        """
        return FORMS[self.form].exact

    def told(self) -> str:
        """For people."""
        number = self.number if self.number is not None else FORMS[self.form].default
        words = FORMS[self.form].words
        return words if number is None else f"{words}, {FORMS[self.form].number} = {number:g}"


@dataclass(frozen=True, slots=True)
class _Form:
    """A form of softmax: what its number is called, its default, which numbers it takes, whether it is softmax."""

    words: str
    number: str = ""
    default: float | None = None
    takes: Callable[[float], bool] = lambda number: False
    exact: bool = False


FORMS: Mapping[str, _Form] = {
    "max-exp": _Form("exponentials divided by their mean", exact=True),
    "normalize-square": _Form(
        "softmax of smaller scores, squared and normalized", "rounds", None, lambda n: n in range(1, 9), exact=True
    ),
    "cgf": _Form(
        "softmax of scores that are normal along a row: exponentials of the score less the mean and half the variance"
    ),
    "power": _Form("Power-Softmax", "p", 4, lambda n: n in (2, 4, 6, 8)),
    "2quad": _Form("2Quad", "shift", None, lambda n: 0 < n <= 1e6),
    "2relu": _Form("2ReLU"),
    "relu": _Form("ReLU over the length"),
    "sigmoid": _Form("sigmoid of the score less the logarithm of the length"),
    "square": _Form("squares over the length"),
    "linear": _Form("scores over the length"),
}
"""Forms of attention weights; 2relu compares and is for MPC."""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Activation:
    """How a nonlinearity is replaced.

    Attributes:
        method: ``"auto"`` (exact where it is a polynomial; else what reaches
            ``Options.activation_error`` at the least depth: a composite for ReLU and its kin, a
            Chebyshev interpolant for the rest), ``"quadratic"`` (least squares weighted by the
            calibration density), ``"composite"``, or a method of ``approx.registry``.
        degree: its degree, or what the method means by it; None chooses by the wanted error.
    """

    method: str = "auto"
    degree: int | None = None

    @staticmethod
    def parse(text: str, target: Target = "ckks") -> Activation:
        """``auto``, ``quadratic``, ``relu-composite[:BITS]``, ``chebyshev[:D]`` or any ``METHOD:D``.

        For MPC also ``exact``, ``puma``, ``bumblebee``, ``mpcformer`` and methods that compare.

        Raises:
            ParameterError: anything else.
        """
        from pi_compiler.approx.registry import METHODS

        name, colon, degree = text.partition(":")
        name = _ALIASES.get(name, name.replace("-", "_"))
        known = {m for m, method in METHODS.items() if target == "mpc" or method.protocol == "ckks"}
        number = int(degree) if degree.isdigit() and 0 < int(degree) <= 1023 else None
        if name in ("auto", "quadratic") and not colon:
            return Activation(name)
        if name in _BY_ERROR and not colon:
            return Activation(name)
        if target == "mpc" and name in _FOR_MPC and not colon:
            return Activation(name, _FOR_MPC[name])
        if name in known and number is not None:
            return Activation(name, number)
        raise ParameterError(
            f"activation {text!r} is not known",
            f"known: auto, quadratic, {'exact, puma, bumblebee, mpcformer, ' if target == 'mpc' else ''}"
            "relu-composite[:BITS], chebyshev[:D], and METHOD:D with METHOD one of "
            f"{', '.join(sorted(known))}",
        )


_ALIASES = {"relu-composite": "composite"}
_BY_ERROR = ("chebyshev", "composite")
_FOR_MPC: Mapping[str, int | None] = {"exact": None, "puma": 6, "bumblebee": 4, "mpcformer": 2}


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for.

    Attributes:
        activation: replacement of every nonlinearity without an entry of its own.
        activations: replacement by ONNX node name.
        activation_error: largest absolute error of an automatic replacement.
        margin: half width of an approximation interval relative to the calibrated range's.
        max_latency: choose fits by dynamic programming so that predicted seconds stay below this.
        max_accuracy_drop: choose the cheapest fits that lose at most this fraction of the original's
            answers on calibration data.
        precision_bits: bits of the outputs, relative to the largest calibrated one, that
            noise must leave intact.
        maxpool: what to do with MaxPool; under MPC it is exact unless averages are asked for.
        log_n: ring degree to use; None lets the planner choose.
        log_scale: scale to use; None lets the planner choose.
        max_input_ciphertexts: most ciphertexts that the client may send for one input.
        backend: the backend that the plan is made for (its limits and its costs); ``"auto"`` is the native
            one where it is available, else tenseal.
        insecure: allow parameters below 128-bit security.
        target: homomorphic encryption or secure multi-party computation.
        protocol: MPC: a key of ``ir.protocols.PROTOCOLS``.
        network: MPC: a preset of ``cost_mpc.NETWORKS`` or ``RTT,MBIT``; decides between rounds and bytes.
        frac_bits: MPC: fractional bits of values; None takes the protocol's default, fewer if ranges ask for it.
        public_weights: MPC: the data's owner may know the weights, so that linear layers are local.
        wrap_budget: MPC: largest expected number of truncations per inference that wrap around.
        softmax: what an inner Softmax without an entry of its own becomes, see ``Softmax.parse``.
        softmaxes: the same by ONNX node name.
        stochastic_bits: MPC: low bits that comparisons leave out (Circa).
        embedding: who looks token numbers up: ``"client"``, which then knows the tables, or, under MPC only,
            ``"secret"``: one-hot rows are shared and multiplied by the table.
        bootstraps: plans may count bootstraps where the depth exceeds every leveled parameter set; nothing runs them.
    """

    activation: Activation = field(default_factory=Activation)
    activations: Mapping[str, Activation] = field(default_factory=dict)
    activation_error: float = 2.0**-7
    margin: float = 1.4
    max_latency: float | None = None
    max_accuracy_drop: float | None = None
    precision_bits: float = 10.0
    maxpool: Literal["refuse", "average"] = "refuse"
    log_n: int | None = None
    log_scale: float | None = None
    max_input_ciphertexts: int = 16
    backend: str = "auto"
    insecure: bool = False
    target: Target = "ckks"
    protocol: str = "crypten-ttp"
    network: str = "lan"
    frac_bits: int | None = None
    public_weights: bool = False
    wrap_budget: float = 1e-3
    softmax: str = "max-exp"
    softmaxes: Mapping[str, str] = field(default_factory=dict)
    stochastic_bits: int = 0
    embedding: Embedding = "client"
    bootstraps: bool = False

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
        if self.max_latency is not None and not self.max_latency > 0:
            faults.append(f"max_latency={self.max_latency} must be positive")
        if self.max_accuracy_drop is not None and not 0 <= self.max_accuracy_drop < 1:
            faults.append(f"max_accuracy_drop={self.max_accuracy_drop} must be in [0, 1)")
        if self.frac_bits is not None and not 6 <= self.frac_bits <= 24:
            faults.append(f"frac_bits={self.frac_bits} must be in [6, 24]")
        if not 0 < self.wrap_budget < 1:
            faults.append(f"wrap_budget={self.wrap_budget} must be in (0, 1)")
        if not 0 <= self.stochastic_bits <= 20:
            faults.append(f"stochastic_bits={self.stochastic_bits} must be in [0, 20]")
        if self.embedding == "secret" and self.target != "mpc":
            faults.append("embedding='secret' is for target 'mpc'")
        for text in (self.softmax, *self.softmaxes.values()):
            try:
                Softmax.parse(text)
            except ParameterError as error:
                faults.append("; ".join((error.what, *error.details)))
        if faults:
            raise ParameterError("options are out of range", *faults)

    def softmax_of(self, layer: str) -> Softmax:
        """What the softmax of a layer becomes."""
        return Softmax.parse(self.softmaxes.get(layer, self.softmax))
