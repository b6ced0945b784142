"""Every ReLU becomes a polynomial little by little, all at once: a homotopy with distillation.

During the first part of the run the activation is (1 - t) ReLU(x) + t g(x) with t growing from 0 to 1;
then g stands alone and training goes on. At last it settles: inputs of polynomials are clipped closer and
what lies beyond costs ten times as much, because one image in thousands whose values escape is an
image lost, and squares let nothing come back. It is VanillaNet's schedule for removing activations (Chen
et al., NeurIPS 2023, section 3.1) with a polynomial in the identity's place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from pi_compiler.errors import BudgetError
from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.masked import Masked
from pi_compiler.models.training.methods.autorep import (
    RANGE,
    Coefficients,
    fit_polynomials,
    polynomial_groups,
    range_penalty,
)
from pi_compiler.models.training.methods.method import Task, mask_relus

__all__ = ["gradual"]

SETTLE = 0.25
SETTLE_LIMIT = 0.6
SETTLE_RANGE = 10.0
SETTLE_RATE = 0.2


class _Blend(nn.Module):
    """The share of ReLU that is left; a buffer, so that checkpoints have it."""

    share: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.ones(()))

    def forward(self) -> torch.Tensor:
        return self.share


class _Schedule(Hooks):
    """Lowers the shares, linearly in steps."""

    def __init__(self, masked: Mapping[str, Masked], task: Task) -> None:
        self.masked, self.task = masked, task
        self.until = task.recipe.options.get("until", 0.5)
        self.rate = task.recipe.finetune.learning_rate * task.recipe.polynomials

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return range_penalty(self.masked, self.task)

    def before_step(self, model: nn.Module, step: int, steps: int) -> None:
        left = max(0.0, 1.0 - (step + 1) / max(1.0, self.until * steps))
        for m in self.masked.values():
            if isinstance(m.gate, _Blend):
                m.gate.share.fill_(left)

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
        return all(isinstance(m.gate, _Blend) and float(m.gate.share) == 0.0 for m in self.masked.values())

    def groups(self, model: nn.Module) -> list[dict[str, object]]:
        return polynomial_groups(self.masked, self.rate)


def gradual(task: Task) -> None:
    """See the module's docstring; for budget 0 only.

    Recipe options: ``until`` (share of the run after which no ReLU is left, 0.5), ``range`` (weight of
    the range penalty), ``settle`` (length of the last stage relative to the first, 0.25).

    Raises:
        BudgetError: some ReLUs are to stay, which this method cannot choose.
    """
    if task.budget:
        raise BudgetError(f"method 'gradual' leaves no ReLU, the budget is {task.budget}", hint="--budget 0")
    masked = mask_relus(task)
    fit_polynomials(task.module, masked, task.batches())
    for m in masked.values():
        m.gate = _Blend()
    settings, options = task.recipe.finetune, task.recipe.options
    task.run("finetune", settings, (_Schedule(masked, task),))
    for m in masked.values():
        m.gate = None
        m.mask.zero_()
        m.bound(SETTLE_LIMIT * float(m.limit))
    closer = {**options, "range": SETTLE_RANGE * options.get("range", RANGE)}
    task.recipe = replace(task.recipe, options=closer)
    epochs = round(options.get("settle", SETTLE) * settings.epochs)
    rate = SETTLE_RATE * settings.learning_rate
    calm = replace(settings, epochs=epochs, learning_rate=rate, schedule="cosine")
    task.run("settle", calm, (Coefficients(masked, task),))
