"""The functions that networks use and that get replaced: values, derivatives, symmetry, limits.

Definitions follow the ONNX operators of the same name; parameters have ONNX's names and defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
from scipy import special

from pi_compiler.approx.errors import ApproximationError, DomainError
from pi_compiler.approx.poly import Domain, FloatArray, check_domain

Function: TypeAlias = Callable[[FloatArray], FloatArray]
Line: TypeAlias = tuple[float, float]
"""Slope and intercept."""

_REALS = (-math.inf, math.inf)
_NO_PARAMS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Target:
    """A function of one variable and what is known about it.

    Attributes:
        name: how ``target()`` finds it.
        function: values, vectorized.
        derivative: slopes, vectorized; at a kink either one-sided slope.
        parity: of ``function(x) - offset[0] - offset[1] * x``; None if it has none. GELU, for
            instance, is x/2 plus an even function.
        offset: see ``parity``.
        asymptotes: the lines approached at minus and plus infinity; None where there is none.
        kinks: points where the function or some derivative jumps.
        defined_on: where the function is finite; an infinite bound means no bound.
        poles: points, possibly on the edge of ``defined_on``, where it is not finite.
        params: the parameters that it was made with.
    """

    name: str
    function: Function
    derivative: Function
    parity: Literal["even", "odd"] | None = None
    offset: Line = (0.0, 0.0)
    asymptotes: tuple[Line | None, Line | None] = (None, None)
    kinks: tuple[float, ...] = ()
    defined_on: Domain = _REALS
    poles: tuple[float, ...] = ()
    params: Mapping[str, float] = field(default_factory=lambda: _NO_PARAMS)

    def __call__(self, x: FloatArray) -> FloatArray:
        """Values at x, any shape."""
        return self.function(np.asarray(x, dtype=np.float64))

    def check(self, domain: tuple[float, float]) -> Domain:
        """The interval, if the function is finite on all of it.

        Raises:
            DomainError: malformed interval, a pole inside, or points where it is undefined.
        """
        low, high = check_domain(domain)
        inside = [p for p in self.poles if low <= p <= high]
        if inside:
            raise DomainError(f"{self.name} has a pole at {inside[0]:g}, inside the interval [{low:g}, {high:g}]")
        if low < self.defined_on[0] or high > self.defined_on[1]:
            first, last = self.defined_on
            raise DomainError(
                f"{self.name} is defined on [{first:g}, {last:g}] only, not on all of [{low:g}, {high:g}]"
            )
        return low, high

    def symmetry_on(self, domain: Domain) -> Literal["even", "odd"] | None:
        """The parity, if the interval is symmetric so that a fit inherits it."""
        low, high = domain
        return self.parity if abs(low + high) <= 1e-12 * (high - low) else None


def _where(left: Function, right: Function, at: float = 0.0) -> Function:
    def joined(x: FloatArray) -> FloatArray:
        return np.where(x < at, left(np.minimum(x, at)), right(np.maximum(x, at)))

    return joined


def _constant(value: float) -> Function:
    return lambda x: np.full_like(x, value)


def _leaky(name: str, slope: float, params: Mapping[str, float]) -> Target:
    return Target(
        name,
        lambda x: np.where(x < 0.0, slope * x, x),
        lambda x: np.where(x < 0.0, slope, 1.0),
        "even",
        (0.0, 0.5 * (1.0 + slope)),
        ((slope, 0.0), (1.0, 0.0)),
        (0.0,),
        params=MappingProxyType(dict(params)),
    )


def _relu() -> Target:
    return _leaky("relu", 0.0, {})


def _leaky_relu(alpha: float = 0.01) -> Target:
    return _leaky("leaky_relu", alpha, {"alpha": alpha})


def _prelu(slope: float = 0.25) -> Target:
    return _leaky("prelu", slope, {"slope": slope})


def _clip(min: float = -math.inf, max: float = math.inf) -> Target:
    if not min < max:
        raise ApproximationError(f"clip needs min < max, found min {min:g} and max {max:g}")
    odd = min == -max and math.isfinite(max)
    return Target(
        "clip",
        lambda x: np.clip(x, min, max),
        lambda x: np.where((x > min) & (x < max), 1.0, 0.0),
        "odd" if odd else None,
        asymptotes=(
            (0.0, min) if math.isfinite(min) else (1.0, 0.0),
            (0.0, max) if math.isfinite(max) else (1.0, 0.0),
        ),
        kinks=tuple(k for k in (min, max) if math.isfinite(k)),
        params=MappingProxyType({"min": min, "max": max}),
    )


def _exponential(name: str, scale: float, slope: float, width: float, **params: float) -> Target:
    """``slope * x`` on the right, ``scale * (exp(x / width) - 1)`` on the left."""
    return Target(
        name,
        _where(lambda x: scale * np.expm1(x / width), lambda x: slope * x),
        _where(lambda x: scale / width * np.exp(x / width), _constant(slope)),
        asymptotes=((0.0, -scale), (slope, 0.0)),
        kinks=(0.0,),
        params=MappingProxyType(params),
    )


def _elu(alpha: float = 1.0) -> Target:
    return _exponential("elu", alpha, 1.0, 1.0, alpha=alpha)


def _selu(alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Target:
    return _exponential("selu", alpha * gamma, gamma, 1.0, alpha=alpha, gamma=gamma)


def _celu(alpha: float = 1.0) -> Target:
    if not alpha > 0.0:
        raise ApproximationError(f"celu needs alpha > 0, found {alpha:g}")
    return _exponential("celu", alpha, 1.0, alpha, alpha=alpha)


def _normal(x: FloatArray) -> FloatArray:
    return np.asarray(np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi))


def _gelu() -> Target:
    return Target(
        "gelu",
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * _normal(x),
        "even",
        (0.0, 0.5),
        ((0.0, 0.0), (1.0, 0.0)),
    )


def _gelu_tanh() -> Target:
    rate, cubic = math.sqrt(2.0 / math.pi), 0.044715

    def value(x: FloatArray) -> FloatArray:
        return np.asarray(0.5 * x * (1.0 + np.tanh(rate * (x + cubic * x**3))))

    def slope(x: FloatArray) -> FloatArray:
        t = np.tanh(rate * (x + cubic * x**3))
        return np.asarray(0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * rate * (1.0 + 3.0 * cubic * x * x))

    return Target("gelu_tanh", value, slope, "even", (0.0, 0.5), ((0.0, 0.0), (1.0, 0.0)))


def _sigmoid_slope(x: FloatArray) -> FloatArray:
    return np.asarray(special.expit(x) * special.expit(-x))


def _sigmoid() -> Target:
    return Target("sigmoid", special.expit, _sigmoid_slope, "odd", (0.5, 0.0), ((0.0, 0.0), (0.0, 1.0)))


def _hard_sigmoid(alpha: float = 0.2, beta: float = 0.5) -> Target:
    if alpha == 0.0:
        raise ApproximationError("hard_sigmoid needs alpha other than 0")
    ends = sorted((-beta / alpha, (1.0 - beta) / alpha))
    rising = alpha > 0.0
    return Target(
        "hard_sigmoid",
        lambda x: np.clip(alpha * x + beta, 0.0, 1.0),
        lambda x: np.where((x > ends[0]) & (x < ends[1]), alpha, 0.0),
        "odd" if beta == 0.5 else None,
        (0.5, 0.0) if beta == 0.5 else (0.0, 0.0),
        ((0.0, 0.0), (0.0, 1.0)) if rising else ((0.0, 1.0), (0.0, 0.0)),
        tuple(ends),
        params=MappingProxyType({"alpha": alpha, "beta": beta}),
    )


def _hard_swish(alpha: float = 1.0 / 6.0, beta: float = 0.5) -> Target:
    gate = _hard_sigmoid(alpha, beta)
    return Target(
        "hard_swish",
        lambda x: x * gate.function(x),
        lambda x: gate.function(x) + x * gate.derivative(x),
        "even" if beta == 0.5 else None,
        (0.0, 0.5) if beta == 0.5 else (0.0, 0.0),
        ((0.0, 0.0), (1.0, 0.0)) if alpha > 0.0 else ((1.0, 0.0), (0.0, 0.0)),
        gate.kinks,
        params=gate.params,
    )


def _silu(rate: float = 1.0) -> Target:
    return Target(
        "silu",
        lambda x: x * special.expit(rate * x),
        lambda x: special.expit(rate * x) + rate * x * _sigmoid_slope(rate * x),
        "even",
        (0.0, 0.5),
        ((0.0, 0.0), (1.0, 0.0)) if rate > 0.0 else ((1.0, 0.0), (0.0, 0.0)),
        params=MappingProxyType({"rate": rate}),
    )


def _softplus_value(x: FloatArray) -> FloatArray:
    return np.asarray(np.logaddexp(0.0, x))


def _softplus() -> Target:
    return Target("softplus", _softplus_value, special.expit, "even", (0.0, 0.5), ((0.0, 0.0), (1.0, 0.0)))


def _mish() -> Target:
    def slope(x: FloatArray) -> FloatArray:
        t = np.tanh(_softplus_value(x))
        return np.asarray(t + x * (1.0 - t * t) * special.expit(x))

    return Target("mish", lambda x: x * np.tanh(_softplus_value(x)), slope, asymptotes=((0.0, 0.0), (1.0, 0.0)))


def _tanh() -> Target:
    return Target("tanh", np.tanh, lambda x: 1.0 - np.tanh(x) ** 2, "odd", asymptotes=((0.0, -1.0), (0.0, 1.0)))


def _softsign() -> Target:
    return Target(
        "softsign",
        lambda x: x / (1.0 + np.abs(x)),
        lambda x: 1.0 / (1.0 + np.abs(x)) ** 2,
        "odd",
        asymptotes=((0.0, -1.0), (0.0, 1.0)),
        kinks=(0.0,),
    )


def _erf() -> Target:
    return Target(
        "erf",
        special.erf,
        lambda x: 2.0 / math.sqrt(math.pi) * np.exp(-x * x),
        "odd",
        asymptotes=((0.0, -1.0), (0.0, 1.0)),
    )


def _exp() -> Target:
    return Target("exp", np.exp, np.exp, asymptotes=((0.0, 0.0), None))


def _pow(exponent: float = 2.0) -> Target:
    params = MappingProxyType({"exponent": exponent})
    whole = float(exponent).is_integer()
    parity: Literal["even", "odd"] | None = None
    if whole:
        parity = "odd" if int(exponent) % 2 else "even"
    return Target(
        "pow",
        lambda x: np.power(x, exponent),
        lambda x: exponent * np.power(x, exponent - 1.0),
        parity,
        kinks=() if whole else (0.0,),
        defined_on=_REALS if whole else (0.0, math.inf),
        poles=(0.0,) if exponent < 0.0 else (),
        params=params,
    )


def _sqrt() -> Target:
    return Target("sqrt", np.sqrt, lambda x: 0.5 / np.sqrt(x), kinks=(0.0,), defined_on=(0.0, math.inf))


def _inv_sqrt() -> Target:
    return Target(
        "inv_sqrt",
        lambda x: 1.0 / np.sqrt(x),
        lambda x: -0.5 * x**-1.5,
        asymptotes=(None, (0.0, 0.0)),
        defined_on=(0.0, math.inf),
        poles=(0.0,),
    )


def _reciprocal() -> Target:
    return Target(
        "reciprocal",
        lambda x: 1.0 / x,
        lambda x: -1.0 / (x * x),
        "odd",
        asymptotes=((0.0, 0.0), (0.0, 0.0)),
        poles=(0.0,),
    )


def _log() -> Target:
    return Target("log", np.log, lambda x: 1.0 / x, defined_on=(0.0, math.inf), poles=(0.0,))


def _abs() -> Target:
    return Target("abs", np.abs, np.sign, "even", asymptotes=((-1.0, 0.0), (1.0, 0.0)), kinks=(0.0,))


def _square() -> Target:
    return Target("square", np.square, lambda x: 2.0 * x, "even")


def _sign() -> Target:
    return Target("sign", np.sign, np.zeros_like, "odd", asymptotes=((0.0, -1.0), (0.0, 1.0)), kinks=(0.0,))


def _step() -> Target:
    return Target(
        "step",
        lambda x: 0.5 + 0.5 * np.sign(x),
        np.zeros_like,
        "odd",
        (0.5, 0.0),
        ((0.0, 0.0), (0.0, 1.0)),
        (0.0,),
    )


def _max(other: float = 0.0) -> Target:
    return Target(
        "max",
        lambda x: np.maximum(x, other),
        lambda x: np.where(x > other, 1.0, 0.0),
        "even" if other == 0.0 else None,
        (0.0, 0.5) if other == 0.0 else (0.0, 0.0),
        ((0.0, other), (1.0, 0.0)),
        (other,),
        params=MappingProxyType({"other": other}),
    )


_MAKERS: Mapping[str, Callable[..., Target]] = MappingProxyType(
    {make.__name__.lstrip("_"): make for make in (
        _relu, _leaky_relu, _prelu, _clip, _elu, _selu, _celu, _gelu, _gelu_tanh, _sigmoid, _hard_sigmoid,
        _hard_swish, _silu, _mish, _tanh, _softplus, _softsign, _erf, _exp, _pow, _sqrt, _inv_sqrt, _reciprocal,
        _log, _abs, _square, _sign, _step, _max,
    )}
)  # fmt: skip

TARGETS: tuple[str, ...] = tuple(_MAKERS)
"""Names that ``target()`` knows."""


def target(name: str, **params: float) -> Target:
    """A function by its name.

    Args:
        name: one of ``TARGETS``.
        params: the ONNX operator's attributes of the same name (``alpha``, ``min`` ...); ``slope``
            for prelu, ``exponent`` for pow, ``rate`` for silu (x * sigmoid(rate * x)), ``other``
            for max (the constant on the other side).

    Raises:
        ApproximationError: unknown name or parameter, or a parameter that is NaN or out of range.
    """
    if name not in _MAKERS:
        raise ApproximationError(f"no function {name!r}; known: {', '.join(TARGETS)}")
    wrong = [f"{k} is not a number" for k, v in params.items() if math.isnan(v)]
    if wrong:
        raise ApproximationError(f"{name}: {'; '.join(wrong)}")
    try:
        return _MAKERS[name](**params)
    except TypeError as error:
        raise ApproximationError(f"{name} does not take the parameters {sorted(params)}") from error


def custom(
    name: str,
    function: Function,
    *,
    kinks: tuple[float, ...] = (),
    poles: tuple[float, ...] = (),
    parity: Literal["even", "odd"] | None = None,
    defined_on: Domain = _REALS,
) -> Target:
    """A target from a function of one's own; its derivative is taken by central differences.

    Args:
        name: for reports.
        function: values, vectorized.
        kinks: every point where it, or some derivative, jumps.
        poles: every point where it is not finite.
        parity: see ``Target``.
        defined_on: see ``Target``.
    """

    def slope(x: FloatArray) -> FloatArray:
        step = 6e-6 * np.maximum(1.0, np.abs(x))
        return np.asarray((function(x + step) - function(x - step)) / (2.0 * step))

    return Target(name, function, slope, parity, kinks=kinks, poles=poles, defined_on=defined_on)


def as_target(function: Target | Function) -> Target:
    """The target itself, or a plain smooth function as one."""
    return function if isinstance(function, Target) else custom(getattr(function, "__name__", "function"), function)


__all__ = ["TARGETS", "Function", "Line", "Target", "as_target", "custom", "target"]
