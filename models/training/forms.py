"""What a user asks for instead of a transformer's softmax, normalization and activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from pi_compiler.errors import ParameterError
from pi_compiler.models.training.engine import Settings
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.transformers import Bands, Kind, Plan, exchangeable

__all__ = ["ACTIVATION", "KEEP", "NORM", "SOFTMAX", "Forms"]

KEEP: Final = "keep"
SOFTMAX: Final[Mapping[str, str]] = MappingProxyType(
    {**{f"power:{p}": f"power{p}" for p in (2, 4, 6)}, "2quad": "2quad", "quadratic": "quadratic", "cgf": "cgf"}
)
"""``--softmax``: keys of ``transformers.ATTENTION``."""
NORM: Final[Mapping[str, str]] = MappingProxyType({"band": "layer", "batch": "batch", "none": "none"})
"""``--norm``: keys of ``transformers.NORMS``; ``"band"`` stays what it is, its variances are trained into a band."""
ACTIVATION: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {**{f"poly:{d}": ("polynomial", d) for d in range(2, 8)}, "relu": ("relu", 0), "none": ("none", 0)}
)
"""``--activation``: one of ``transformers.ACTIVATIONS`` and a degree."""


@dataclass(frozen=True, slots=True)
class Forms:
    """What becomes what, and what the training after it imitates and avoids; see ``transformers.Plan``.

    Attributes:
        softmax: a key of ``SOFTMAX``, or ``"keep"``.
        norm: a key of ``NORM``, or ``"keep"``.
        activation: a key of ``ACTIVATION``, or ``"keep"``.
        distill: weight of the distance to the teacher's answers.
        distill_attention: to its weights of attention.
        distill_hidden: to its hidden states.
        range_weight: weight of scores, divisors and variances outside of their bands.
        head_entropy: weight of the term that keeps heads from collapsing.
    """

    softmax: str = KEEP
    norm: str = KEEP
    activation: str = KEEP
    distill: float = 1.0
    distill_attention: float = 0.0
    distill_hidden: float = 0.0
    range_weight: float = 0.1
    head_entropy: float = 0.0

    @property
    def asked(self) -> bool:
        """Whether anything is to be exchanged."""
        return bool(self.order)

    @property
    def order(self) -> tuple[Kind, ...]:
        """What is exchanged, in this order."""
        kinds: tuple[tuple[Kind, str], ...] = (
            ("attention", self.softmax),
            ("norms", self.norm),
            ("activations", self.activation),
        )
        return tuple(kind for kind, form in kinds if form != KEEP)

    def check(self) -> None:
        """Check what can be wrong without a network.

        Raises:
            ParameterError: all of it.
        """
        faults = []
        for option, value, known in (
            ("--softmax", self.softmax, SOFTMAX),
            ("--norm", self.norm, NORM),
            ("--activation", self.activation, ACTIVATION),
        ):
            if value != KEEP and value not in known:
                faults.append(f"{option} {value!r} is not known; known: {KEEP}, {', '.join(known)}")
        for name in ("distill", "distill_attention", "distill_hidden", "range_weight", "head_entropy"):
            if not getattr(self, name) >= 0.0:
                faults.append(f"--{name.replace('_', '-')} {getattr(self, name):g} must not be negative")
        changed = self != Forms() and not self.asked
        if changed and not faults:
            faults.append(
                "distillation of a transformer, ranges and entropy are for what is exchanged: "
                "--softmax, --norm or --activation"
            )
        if faults:
            raise ParameterError("a transformer's parts cannot be exchanged so", *faults)

    def settings(self, settings: Settings) -> Settings:
        """How to train after each exchange, for the length, batches and augmentation of other settings."""
        return replace(
            settings,
            optimizer="adamw",
            learning_rate=1e-3,
            weight_decay=1e-2,
            clip_norm=1.0,
            distill=self.distill,
            temperature=2.0,
            choose=True,
            # Steps are looked into, which compiled code would be cut at.
            compiled=False,
        )

    def plan(self, settings: Settings) -> Plan:
        """The plan with a training after each exchange."""
        activations, degree = ACTIVATION.get(self.activation, ("polynomial", 0))
        return Plan(
            settings,
            SOFTMAX.get(self.softmax, "softmax"),
            NORM.get(self.norm, "layer"),
            degree,
            self.order,
            Bands(weight=self.range_weight),
            activations=activations,
            imitate_attention=self.distill_attention,
            imitate_hidden=self.distill_hidden,
            entropy=self.head_entropy,
        )

    def faults_of(self, module: GraphModule) -> list[str]:
        """What is to be exchanged and not there."""
        there = {s.node.op for s in module.order}
        faults = []
        if self.softmax != KEEP and "InnerSoftmax" not in there:
            faults.append(f"--softmax {self.softmax}: the model has no softmax inside")
        if self.norm != KEEP and "LayerNorm" not in there:
            faults.append(f"--norm {self.norm}: the model has no layer normalization")
        if self.activation != KEEP and not exchangeable(module):
            faults.append(f"--activation {self.activation}: the model has no activation")
        if not there & {"InnerSoftmax", "LayerNorm"}:
            faults.append("the model is no transformer: --budget and --method replace its ReLUs")
        return faults

    def comparisons(self, module: GraphModule) -> int:
        """Elements that are compared after the exchange."""
        proper = {id(a) for a in exchangeable(module)}
        rest = sum(a.comparisons for a in module.activations.values() if id(a) not in proper)
        if self.activation == KEEP:
            return module.comparisons
        return rest + (sum(a.node.size for a in exchangeable(module)) if self.activation == "relu" else 0)
