"""Circa's stochastic truncated ReLU (Ghodsi et al., NeurIPS 2021) as a fault model, in clear.

The sign of a fixed-point number X in the field of p elements is taken from its two shares without a reduction,
so it is wrong with probability |X| / p; and the k lowest bits of the shares are dropped, so for |X| < 2^k the
comparison ties with probability (2^k - |X|) / 2^k. In mode ``pos-zero`` ties make small positive numbers zero,
in mode ``neg-pass`` they let small negative ones pass.

This is a simulator: it protects nothing. ``CircaFaults`` trains any method with it, ``faulty`` evaluates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pi_compiler.errors import ParameterError
from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.masked import Masked
from pi_compiler.models.training.steps import Activation

__all__ = ["CircaFaults", "FaultModel", "faulty"]

Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class FaultModel:
    """What a truncated comparison does to a ReLU.

    Attributes:
        bits: low bits that are dropped.
        mode: what a tie means.
        fraction: fractional bits of the fixed point.
        modulus: of the field; the paper's has 31 bits.
    """

    bits: int = 12
    mode: Literal["pos-zero", "neg-pass"] = "pos-zero"
    fraction: int = 15
    modulus: int = 2138816513

    def __post_init__(self) -> None:
        faults = []
        if self.mode not in ("pos-zero", "neg-pass"):
            faults.append(f"mode '{self.mode}' is neither 'pos-zero' nor 'neg-pass'")
        if not 0 <= self.bits < self.modulus.bit_length():
            faults.append(f"{self.bits} bits cannot be dropped from a field of {self.modulus.bit_length()} bits")
        if self.fraction < 0:
            faults.append(f"{self.fraction} fractional bits")
        if faults:
            raise ParameterError("the fault model is out of range", *faults)

    def probability(self, x: torch.Tensor) -> torch.Tensor:
        """That the ReLU of each element is wrong.

        A tie changes only numbers of the sign that the mode names, and a wrong sign any number; they exclude
        neither each other nor add up beyond one: p = wrong + (1 - wrong) tie.
        """
        size = (x.double().abs() * 2.0**self.fraction).round()
        wrong = (size / self.modulus).clamp(max=1.0)
        tie = ((2.0**self.bits - size) / 2.0**self.bits).clamp(min=0.0)
        hit = x > 0 if self.mode == "pos-zero" else x < 0
        return torch.where(x == 0, 0.0, wrong + (1.0 - wrong) * torch.where(hit, tie, 0.0))

    def relu(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """X where the possibly wrong comparison says positive, else 0; the gradient is that of the choice made."""
        with torch.no_grad():
            fault = torch.rand(x.shape, generator=generator, dtype=torch.float64) < self.probability(x)
            passes = (x > 0) ^ fault
        return torch.where(passes, x, torch.zeros((), dtype=x.dtype))


@contextmanager
def faulty(module: nn.Module, faults: FaultModel, seed: int) -> Iterator[None]:
    """Every ReLU of a graph module, also those that masks keep, is faulty inside the block."""
    restore = _install(module, faults, torch.Generator().manual_seed(seed))
    try:
        yield
    finally:
        restore()


class CircaFaults(Hooks):
    """Training steps see faulty ReLUs; validation sees exact ones. Every epoch has its own random numbers."""

    def __init__(self, faults: FaultModel, seed: int) -> None:
        self.faults, self.seed = faults, seed
        self.restore: Callable[[], None] | None = None

    def before_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        self.restore = _install(model, self.faults, torch.Generator().manual_seed(self.seed * 100_003 + epoch))

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
        if self.restore is not None:
            self.restore()
        self.restore = None
        return True


def _install(module: nn.Module, faults: FaultModel, generator: torch.Generator) -> Callable[[], None]:
    """Puts the faulty ReLU in; returns what takes it out."""
    places: list[tuple[Activation | Masked, Function]] = []
    for step in module.modules():
        if isinstance(step, Activation) and step.node.op == "Relu":
            places.append((step, step.original))
            if isinstance(step.function, Masked):
                places.append((step.function, step.function.original))
    for place, _ in places:
        place.original = lambda x: faults.relu(x, generator)

    def restore() -> None:
        for place, original in places:
            place.original = original

    return restore
