"""The budget methods, one file each, and what the driver knows of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from pi_compiler.models.training.masked import Kind
from pi_compiler.models.training.methods.autorep import autorep
from pi_compiler.models.training.methods.baselines import by_magnitude, by_random
from pi_compiler.models.training.methods.gradual import gradual
from pi_compiler.models.training.methods.method import Granularity, Method
from pi_compiler.models.training.methods.snl import snl

__all__ = ["METHODS", "Known"]

_KINDS: tuple[Kind, ...] = ("identity", "linear", "quadratic")
_UNITS: tuple[Granularity, ...] = ("pixel", "channel", "layer")


@dataclass(frozen=True, slots=True)
class Known:
    """One method.

    Attributes:
        run: the method.
        summary: one line for people, with the paper.
        kinds: what it can put in a ReLU's place.
        granularities: what it can keep or replace as one.
        only_zero: it leaves no ReLU at all.
    """

    run: Method
    summary: str
    kinds: tuple[Kind, ...] = _KINDS
    granularities: tuple[Granularity, ...] = _UNITS
    only_zero: bool = False


METHODS: Final[Mapping[str, Known]] = MappingProxyType(
    {
        "autorep": Known(autorep, "trained indicators with hysteresis, DaPa polynomials (AutoReP, ICCV 2023)"),
        "autorep-as-released": Known(
            partial(autorep, mode="as_released"), "the same, beginning where the published code begins"
        ),
        "snl": Known(snl, "slopes between ReLU and its replacement, pushed out by their L1 norm (SNL, ICML 2022)"),
        "magnitude": Known(by_magnitude, "keeps the ReLUs whose replacement changes their value most"),
        "random": Known(by_random, "keeps ReLUs at random"),
        "gradual": Known(
            gradual, "every ReLU to a polynomial by a homotopy", ("linear", "quadratic"), ("layer",), only_zero=True
        ),
    }
)
"""By name, as ``pi-compiler reduce --method`` takes it."""
