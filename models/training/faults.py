"""Circa's ReLU (Ghodsi et al., NeurIPS 2021, section 3) as a fault model: to train with, and to evaluate against.

ReLU(x) = x · sign(x) with a cheap sign: the parties compare their shares without a modular reduction and
without the k lowest bits. With x as an integer below the modulus p, the sign is wrong with probability
|x| / p; moreover, for |x| < 2^k, the truncated shares tie with probability (2^k - |x|) / 2^k, and a tie counts as
negative (``pos-zero``: small positive values become zero) or as positive (``neg-pass``: small negative values pass).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pi_compiler.errors import ParameterError
from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import Masked

__all__ = ["Faults", "FaultyTraining", "faulty"]


@dataclass(frozen=True, slots=True)
class Faults:
    """What the cheap sign does to a value.

    Attributes:
        mode: what a tie counts as.
        dropped_bits: k.
        fraction_bits: x is rounded to multiples of 2^-fraction_bits.
        modulus: p, the prime of the field that shares live in; Circa's has 31 bits.
    """

    mode: Literal["pos-zero", "neg-pass"] = "pos-zero"
    dropped_bits: int = 12
    fraction_bits: int = 15
    modulus: int = 2_138_816_513

    def __post_init__(self) -> None:
        faults = []
        if self.mode not in ("pos-zero", "neg-pass"):
            faults.append(f"mode {self.mode!r} is neither pos-zero nor neg-pass")
        if not 0 <= self.dropped_bits <= 30:
            faults.append(f"dropped_bits={self.dropped_bits} must be in [0, 30]")
        if not 0 <= self.fraction_bits <= 30:
            faults.append(f"fraction_bits={self.fraction_bits} must be in [0, 30]")
        if self.modulus < 3:
            faults.append(f"modulus={self.modulus} must be at least 3")
        if faults:
            raise ParameterError("the fault model is out of range", *faults)

    def probability(self, x: torch.Tensor) -> torch.Tensor:
        """How likely the sign of each value is wrong."""
        size = torch.round(x.abs() * 2.0**self.fraction_bits).double()
        wrong = (size / self.modulus).clamp(max=1.0)
        tie = (1.0 - size / 2.0**self.dropped_bits).clamp(min=0.0)
        hit = x > 0 if self.mode == "pos-zero" else x < 0
        tie = torch.where(hit, tie, 0.0)
        return wrong + tie - wrong * tie

    def relu(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """X where the drawn sign is positive, else 0; the gradient is that sign's."""
        flipped = torch.rand(x.shape, generator=generator, dtype=torch.float64) < self.probability(x)
        return x * ((x > 0) ^ flipped).to(x.dtype)


@contextmanager
def faulty(module: GraphModule, faults: Faults, seed: int) -> Iterator[None]:
    """Inside the block every ReLU of the module that is left compares with faults, in training and in evaluation."""
    generator = torch.Generator().manual_seed(seed)
    places = [a.function if isinstance(a.function, Masked) else a for a in module.relus.values() if a.node.op == "Relu"]
    before = [p.original for p in places]
    try:
        for p in places:
            p.original = lambda x: faults.relu(x, generator)
        yield
    finally:
        for p, original in zip(places, before, strict=True):
            p.original = original


class FaultyTraining(Hooks):
    """Training steps see faulty ReLUs, validation exact ones; every epoch has random numbers of its own.

    Use: ``Task(..., hooks=(FaultyTraining(Faults(), seed),))``.
    """

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults, self.seed = faults, seed
        self.active = ExitStack()

    def before_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        if isinstance(model, GraphModule):
            self.active.enter_context(faulty(model, self.faults, self.seed * 100_003 + epoch))

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
        self.active.close()
        return True
