"""SNL (Cho et al., ICML 2022): a slope per element between ReLU and the identity, pushed to zero by its L1 norm.

``y = a ReLU(x) + (1 - a) g(x)`` with a starting at one; loss + lambda sum|a| (section 3). An element counts as
kept while a > 0.01. After an epoch (from the fifth on, or from a third of the search if that is less) in which
the count did not fall, lambda grows by a tenth. When the count is within the budget, or the search ends,
the largest slopes become ones and the others zeros, and the network is fine-tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.masked import Masked
from pi_compiler.models.training.methods.autorep import (
    Coefficients,
    fit_polynomials,
    polynomial_groups,
    range_penalty,
)
from pi_compiler.models.training.methods.method import Task, keep_units, mask_relus, units

__all__ = ["snl"]

KEPT = 1e-2
GROWTH = 1.1
PATIENCE = 5


class Slope(nn.Module):
    """One trained slope per unit.

    Attributes:
        weight: (*unit shape).
        pressure: lambda; a buffer, so that checkpoints have it.
        count: units kept after the last epoch.
    """

    pressure: torch.Tensor
    count: torch.Tensor

    def __init__(self, shape: tuple[int, ...], unit: tuple[int, ...], pressure: float) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.ones(unit))
        self.register_buffer("pressure", torch.tensor(pressure))
        self.register_buffer("count", torch.tensor(float(self.weight.numel())))

    def forward(self) -> torch.Tensor:
        return self.weight.expand(self.shape)


class _Search(Hooks):
    """The L1 term and its growing weight."""

    def __init__(self, masked: Mapping[str, Masked], task: Task) -> None:
        self.masked, self.task = masked, task
        self.slopes = [m.gate for m in masked.values() if isinstance(m.gate, Slope)]
        self.patience = min(PATIENCE, max(1, task.recipe.search.epochs // 3))

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        size = torch.stack([s.weight.abs().sum() * (_elements(s) / s.weight.numel()) for s in self.slopes]).sum()
        met = self.kept() <= self.task.relu_budget
        pressure = torch.zeros(()) if met else self.slopes[0].pressure
        return pressure * size + range_penalty(self.masked, self.task)

    def kept(self) -> int:
        """Elements whose slope is not negligible."""
        return sum(int((s.weight > KEPT).sum()) * (_elements(s) // s.weight.numel()) for s in self.slopes)

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
        kept = float(self.kept())
        first = self.slopes[0]
        if epoch >= self.patience and kept >= float(first.count):
            first.pressure.mul_(self.task.recipe.options.get("growth", GROWTH))
        first.count.fill_(kept)
        return kept <= self.task.relu_budget

    def groups(self, model: nn.Module) -> list[dict[str, object]]:
        rate = self.task.recipe.search.learning_rate
        scale = self.task.recipe.options.get("indicator_rate", 1.0)
        weights = {"params": [s.weight for s in self.slopes], "lr": rate * scale, "weight_decay": 0.0}
        return [weights, *polynomial_groups(self.masked, rate * self.task.recipe.polynomials)]


def _elements(slope: Slope) -> int:
    size = 1
    for n in slope.shape:
        size *= n
    return size


def snl(task: Task) -> None:
    """See the module's docstring.

    Recipe options: ``pressure`` (lambda at first; 140 over the number of elements, so that short searches arrive;
    the paper has 1e-5 and hundreds of epochs), ``growth`` (1.1), ``indicator_rate``, ``range``.
    """
    masked = mask_relus(task)
    total = sum(m.node.size for m in masked.values())
    fit_polynomials(task.module, masked, task.batches())
    scores = {n: torch.ones(units(m, task.granularity)) for n, m in masked.items()}
    if 0 < task.budget < total:
        pressure = task.recipe.options.get("pressure", 140.0 / total)
        for m in masked.values():
            m.gate = Slope(m.node.shape, units(m, task.granularity), pressure)
        task.run("search", replace(task.recipe.search, choose=False), (_Search(masked, task),))
        for name, m in masked.items():
            if isinstance(m.gate, Slope):
                scores[name] = m.gate.weight.detach().clone()
            m.gate = None
    keep_units(masked, scores, task.relu_budget)
    task.run("finetune", task.recipe.finetune, (Coefficients(masked, task),))
