"""A transformer's softmax, normalization and activations, exchanged for forms that run encrypted, kind after kind.

Each kind is exchanged everywhere at once and the network trained on, taught by the original (logits) and pressed into
the intervals that polynomials will have to cover: scores, divisors and variances (range-minimizing losses as in
Baruch et al., 2023, and Zimerman et al., 2023). What comes out is a graph again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from pi_compiler.errors import ParameterError
from pi_compiler.ir.graph import Node
from pi_compiler.models.data import Dataset
from pi_compiler.models.training.attention import (
    BatchStatistics,
    CumulantWeights,
    Form,
    Normalization,
    PowerWeights,
    QuadraticWeights,
    Scaling,
    Softmax,
    TwoQuad,
)
from pi_compiler.models.training.engine import Epoch, Hooks, Settings, fit
from pi_compiler.models.training.entropy import Entropy
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.imitation import Imitation
from pi_compiler.models.training.over_length import OVER_LENGTH, OverLength
from pi_compiler.models.training.ranges import Pillar
from pi_compiler.models.training.steps import Activation, Replacement, horner, numbers
from pi_compiler.ops.op import same

__all__ = [
    "ACTIVATIONS",
    "ATTENTION",
    "NORMS",
    "Bands",
    "FittedPolynomial",
    "Kind",
    "Plan",
    "Stage",
    "exchange",
    "exchangeable",
]

Kind: TypeAlias = Literal["attention", "norms", "activations"]
ACTIVATIONS: Final = ("polynomial", "relu", "none")
"""What takes an activation's place: a polynomial, what compares only, or nothing."""
_PARTS = frozenset({"Reciprocal", "InverseSqrt", "Sqrt", "Exp", "Square", "Pow"})

ATTENTION: Final[Mapping[str, Callable[[Node], Form | None]]] = MappingProxyType(
    {
        "softmax": lambda node: None,
        "power2": lambda node: PowerWeights(node, 2),
        "power4": lambda node: PowerWeights(node, 4),
        "power6": lambda node: PowerWeights(node, 6),
        "2quad": TwoQuad,
        "cgf": CumulantWeights,
        "quadratic": QuadraticWeights,
        **{name: partial(OverLength, function=name) for name in OVER_LENGTH},
    }
)
"""Weights of attention by name."""

NORMS: Final[Mapping[str, Callable[[Normalization], Form | None]]] = MappingProxyType(
    {"layer": lambda step: None, "batch": BatchStatistics, "none": Scaling}
)
"""Normalizations by name; ``"layer"`` keeps the division and trains its variances into a band."""


class FittedPolynomial(Replacement):
    """One polynomial for a whole activation, from the least-squares fit to it on data; trained.

    Args:
        activation: what it replaces.
        x: what reaches that, any shape.
        degree: of the polynomial.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, activation: Activation, x: torch.Tensor, degree: int = 2) -> None:
        super().__init__()
        flat = x.detach().flatten().double()
        fitted = np.polynomial.Polynomial.fit(flat.numpy(), activation.original(flat).numpy(), degree).convert()
        coef = np.zeros(degree + 1)
        coef[: len(fitted.coef)] = fitted.coef
        self.coef = nn.Parameter(torch.from_numpy(coef).float())
        self.register_buffer("low", flat.min().float())
        self.register_buffer("high", flat.max().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return horner(self.coef, x)

    def write(self, x: Node, origin: str) -> Node:
        domain = np.array([float(self.low), float(self.high)])
        return same(x, "Poly", origin, basis="power", coef=numbers(self.coef), domain=domain)


class Rectifier(Replacement):
    """ReLU for a smoother activation: one comparison for each element, and no exponential (ReLU's Revival, 2024)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()

    def write(self, x: Node, origin: str) -> Node:
        return same(x, "Relu", origin)

    def comparisons(self, size: int) -> int:
        return size


class Nothing(Replacement):
    """No activation: the layers around it become one linear map (Softmax-only networks, AERO, 2024)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def write(self, x: Node, origin: str) -> Node:
        return x


class Bands(Hooks):
    """Penalizes scores beyond a bound, and divisors and variances outside a band, by squared relative excess.

    Args:
        scores: largest absolute score.
        divisors: band of what weights of attention are divided by.
        variances: band of what normalizations take the root of.
        weight: of each.
    """

    def __init__(
        self,
        scores: float = 4.0,
        divisors: tuple[float, float] = (0.25, 4.0),
        variances: tuple[float, float] = (0.25, 4.0),
        weight: float = 0.1,
    ) -> None:
        if not (scores > 0.0 and all(0.0 < low < high for low, high in (divisors, variances)) and weight >= 0.0):
            raise ParameterError(f"bands {divisors} and {variances}, scores {scores:g}: needed are positive intervals")
        self.scores, self.divisors, self.variances, self.weight = scores, divisors, variances, weight

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:
        terms = []
        for step in model.modules():
            if isinstance(step, Softmax) and step.seen is not None:
                terms.append((step.seen.abs() / self.scores - 1.0).clamp(min=0.0).square().mean())
                if step.form is not None and step.form.divisor is not None:
                    terms.append(_outside(step.form.divisor, self.divisors))
            if isinstance(step, Normalization) and step.form is None and step.variance is not None:
                terms.append(_outside(step.variance, self.variances))
        return self.weight * torch.stack(terms).sum() if terms else None


def _outside(values: torch.Tensor, band: tuple[float, float]) -> torch.Tensor:
    """Mean squared distance of the logarithm from the band's."""
    log = values.clamp(min=1e-12).log()
    low, high = (float(np.log(v)) for v in band)
    return ((low - log).clamp(min=0.0) + (log - high).clamp(min=0.0)).square().mean()


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes what, and how it is trained.

    Attributes:
        attention: a key of ``ATTENTION``.
        norms: a key of ``NORMS``.
        degree: of the polynomials in place of activations; 0 keeps the activations.
        activations: one of ``ACTIVATIONS``.
        order: the kinds, first exchanged first.
        settings: of the training after each exchange; its ``distill`` weighs the original's answers.
        bands: the range penalties.
        bound: inputs of polynomials beyond it are penalized (``ranges.Pillar``).
        imitate_attention: weight of the distance to the original's weights of attention (``Imitation``).
        imitate_hidden: weight of the distance to its hidden states.
        entropy: weight of the term that keeps heads from collapsing (``Entropy``); 0 for none.
    """

    settings: Settings
    attention: str = "power2"
    norms: str = "batch"
    degree: int = 2
    order: tuple[Kind, ...] = ("attention", "norms", "activations")
    bands: Bands = field(default_factory=Bands)
    bound: float = 5.0
    activations: str = "polynomial"
    imitate_attention: float = 0.0
    imitate_hidden: float = 0.0
    entropy: float = 0.0

    def __post_init__(self) -> None:
        faults = []
        if self.attention not in ATTENTION:
            faults.append(f"attention {self.attention!r}, known: {', '.join(ATTENTION)}")
        if self.norms not in NORMS:
            faults.append(f"norms {self.norms!r}, known: {', '.join(NORMS)}")
        if not (self.degree == 0 or 2 <= self.degree <= 7):
            faults.append(f"degree {self.degree} must be 0 or from 2 to 7")
        if self.activations not in ACTIVATIONS:
            faults.append(f"activations {self.activations!r}, known: {', '.join(ACTIVATIONS)}")
        for name in ("imitate_attention", "imitate_hidden", "entropy"):
            if not getattr(self, name) >= 0.0:
                faults.append(f"{name} {getattr(self, name):g} must not be negative")
        if faults:
            raise ParameterError("the plan for a transformer cannot be followed", *faults)

    def hooks(self, module: GraphModule, teacher: nn.Module | None) -> tuple[Hooks, ...]:
        """Terms of the loss for all stages.

        Raises:
            ParameterError: something is to be imitated, and the teacher is missing or of other layers.
        """
        found: list[Hooks] = [self.bands, Pillar(self.bound)]
        if self.imitate_attention or self.imitate_hidden:
            if teacher is None:
                raise ParameterError(
                    "weights of attention and hidden states are imitated only where there is a teacher"
                )
            found.append(Imitation(module, teacher, self.imitate_attention, self.imitate_hidden))
        if self.entropy:
            found.append(Entropy(module, self.entropy))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Stage:
    """One exchange and the training after it."""

    kind: Kind
    history: tuple[Epoch, ...]


def exchange(
    module: GraphModule,
    plan: Plan,
    data: Dataset,
    validation: Dataset,
    *,
    teacher: nn.Module | None,
    seed: int,
    folder: Path | None = None,
    after: Callable[[Kind, GraphModule], None] | None = None,
    progress: Callable[[str, Epoch, int], None] | None = None,
    hooks: tuple[Hooks, ...] = (),
) -> list[Stage]:
    """Exchange kind after kind, in place.

    Args:
        module: the network; it ends with the weights of the best validation epoch of the last stage.
        plan: what and how.
        data: what trains.
        validation: what chooses epochs.
        teacher: whose answers are learned, frozen.
        seed: of order and augmentation.
        folder: where checkpoints go, one subfolder per stage; None keeps none.
        after: called with each kind and the network after its stage.
        hooks: what every stage has besides the plan's own.
        progress: called after each epoch with the kind, the epoch, and how many epochs its stage has.

    Raises:
        ParameterError: the network has nothing that the plan would exchange.
    """
    if not any(isinstance(s, (Softmax, Normalization)) for s in module.order):
        raise ParameterError(
            "the network has neither attention nor layer normalization",
            hint="pi-compiler reduce, which exchanges activations",
        )
    stages = []
    # Made once: what terms of the loss train themselves, like the thresholds of entropy, goes on from stage to stage.
    own = plan.hooks(module, teacher)
    for number, kind in enumerate(plan.order):
        _swap(module, plan, kind, _sample(data))
        settings = plan.settings if teacher is not None else replace(plan.settings, distill=0.0)
        history = fit(
            module,
            settings,
            data,
            validation,
            seed=seed + number,
            folder=None if folder is None else folder / kind,
            hooks=(*own, *hooks),
            teacher=teacher,
            progress=None if progress is None else partial(progress, kind),
        )
        stages.append(Stage(kind, tuple(history)))
        if after is not None:
            after(kind, module)
    return stages


def _sample(data: Dataset, count: int = 512) -> torch.Tensor:
    """Training samples spread over the split."""
    return torch.from_numpy(data.x[:: max(1, len(data) // count)][:count])


def _swap(module: GraphModule, plan: Plan, kind: Kind, x: torch.Tensor) -> None:
    if kind == "attention":
        for step in module.order:
            if isinstance(step, Softmax):
                step.form = ATTENTION[plan.attention](step.node)
    elif kind == "norms":
        for step in module.order:
            if isinstance(step, Normalization):
                step.form = NORMS[plan.norms](step)
        _statistics(module, x)
    elif plan.activations != "polynomial":
        for activation in exchangeable(module):
            activation.function = Rectifier() if plan.activations == "relu" else Nothing()
    elif plan.degree:
        for activation, values in _inputs(module, x):
            activation.function = FittedPolynomial(activation, values, plan.degree)


@torch.no_grad()
def _statistics(module: GraphModule, x: torch.Tensor) -> None:
    """Running statistics of new BatchNorms from a sample, front to back in one pass."""
    forms = [s.form for s in module.order if isinstance(s, Normalization) and isinstance(s.form, BatchStatistics)]
    for form in forms:
        form.norm.momentum = 1.0
    module.train()
    module(x)
    for form in forms:
        form.norm.momentum = 0.1


def exchangeable(module: GraphModule) -> list[Activation]:
    """Activations proper: not the reciprocals and powers that divisions and means are made of."""
    return [a for a in module.activations.values() if a.node.op not in _PARTS]


@torch.no_grad()
def _inputs(module: GraphModule, x: torch.Tensor) -> list[tuple[Activation, torch.Tensor]]:
    """Activations that are not replaced yet, each with what reaches it."""
    found: list[tuple[Activation, torch.Tensor]] = []

    def see(step: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(step, Activation):
            found.append((step, inputs[0]))

    handles = [a.register_forward_pre_hook(see) for a in exchangeable(module) if a.function is None]
    module.eval()
    module(x)
    for handle in handles:
        handle.remove()
    return found
