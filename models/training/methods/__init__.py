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
from pi_compiler.models.training.methods.deepreduce import deepreduce
from pi_compiler.models.training.methods.exchange import exchange
from pi_compiler.models.training.methods.gradual import gradual
from pi_compiler.models.training.methods.hermite import hermite
from pi_compiler.models.training.methods.method import Granularity, Method
from pi_compiler.models.training.methods.reshape import deepreshape
from pi_compiler.models.training.methods.senet import senet
from pi_compiler.models.training.methods.smartpaf import smartpaf
from pi_compiler.models.training.methods.snl import snl
from pi_compiler.models.training.methods.vanilla import vanilla

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
        transformers: it exchanges a transformer's parts, as ``forms.Forms`` says, and chooses no ReLUs.
    """

    run: Method
    summary: str
    kinds: tuple[Kind, ...] = _KINDS
    granularities: tuple[Granularity, ...] = _UNITS
    only_zero: bool = False
    transformers: bool = False


METHODS: Final[Mapping[str, Known]] = MappingProxyType(
    {
        "autorep": Known(autorep, "trained indicators with hysteresis, DaPa polynomials (AutoReP, ICCV 2023)"),
        "autorep-as-released": Known(
            partial(autorep, mode="as_released"), "the same, beginning where the published code begins"
        ),
        "snl": Known(snl, "slopes between ReLU and its replacement, pushed out by their L1 norm (SNL, ICML 2022)"),
        "magnitude": Known(by_magnitude, "keeps the ReLUs whose replacement changes their value most"),
        "random": Known(by_random, "keeps ReLUs at random"),
        "senet": Known(senet, "a budget per layer from sensitivities, masks from gradients (SENet, ICLR 2023)"),
        "deepreduce": Known(
            deepreduce, "the least critical stages lose their ReLUs (DeepReDuce, ICML 2021)", granularities=("layer",)
        ),
        "smartpaf": Known(
            smartpaf,
            "layer after layer, coefficients and weights in turns (SmartPAF, MLSys 2024)",
            ("quadratic", "linear"),
            ("layer",),
        ),
        "vanilla": Known(vanilla, "ReLUs fade to the identity, layers fuse (VanillaNet, NeurIPS 2023)"),
        "deepreshape": Known(
            deepreshape,
            "other channel counts, every activation a ReLU (DeepReShape, 2023)",
            ("identity",),
            ("channel",),
        ),
        "hermite": Known(
            hermite,
            "every ReLU to its normalized Hermite expansion of degree 2 (AESPA, 2022)",
            ("quadratic",),
            ("layer",),
            only_zero=True,
        ),
        "gradual": Known(
            gradual, "every ReLU to a polynomial by a homotopy", ("linear", "quadratic"), ("layer",), only_zero=True
        ),
        "exchange": Known(
            exchange,
            "a transformer's softmax, normalization and activations to forms that run encrypted",
            ("quadratic",),
            transformers=True,
        ),
    }
)
"""By name, as ``pi-compiler reduce --method`` takes it."""
