"""Every ReLU becomes a polynomial little by little, all at once: a homotopy with distillation.

During the first part of the run the activation is (1 - t) ReLU(x) + t g(x) with t growing from 0 to 1;
then g stands alone and training goes on. It is VanillaNet's schedule for removing activations (Chen
et al., NeurIPS 2023, section 3.1) with a polynomial in the identity's place.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pi_compiler.errors import BudgetError
from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.masked import Masked
from pi_compiler.models.training.methods.autorep import fit_polynomials, polynomial_groups, range_penalty
from pi_compiler.models.training.methods.method import Task, mask_relus

__all__ = ["gradual"]


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
    the range penalty).

    Raises:
        BudgetError: some ReLUs are to stay, which this method cannot choose.
    """
    if task.budget:
        raise BudgetError(f"method 'gradual' leaves no ReLU, the budget is {task.budget}", hint="--budget 0")
    masked = mask_relus(task)
    fit_polynomials(task.module, masked, task.batches())
    for m in masked.values():
        m.gate = _Blend()
    task.run("finetune", task.recipe.finetune, (_Schedule(masked, task),))
    for m in masked.values():
        m.gate = None
        m.mask.zero_()
