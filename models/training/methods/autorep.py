"""AutoReP (Peng et al., ICCV 2023): which ReLUs stay is trained with the weights, the others are polynomials.

Every element has a real parameter w (uniform in [0, 1] at first) and an indicator m, which follows w
with a hysteresis: m <- m [w > -t] + (1 - m) [w > t] (section 3.2). The gradient of m is passed on to w
times softplus(w), which is never zero, so that a replaced element may come back. A hinge on the
share of indicators above the budget pushes them out until the budget is met. The polynomials begin
at, and for some steps return to, the closed-form optimum for the inputs they see (DaPa, section 3.3).

Two modes: ``paper`` begins at that optimum; ``as-released`` begins where the published code begins,
at a hundredth of its curvature (see ``approx.gaussian``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pi_compiler.approx.gaussian import dapa
from pi_compiler.errors import ParameterError
from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import DEGREES, Masked, channel_axis
from pi_compiler.models.training.methods.method import Task, keep_units, mask_relus, units

__all__ = ["Indicator", "autorep", "fit_polynomials"]

HYSTERESIS = 0.003
HINGE = 140.0
REFIT_EVERY = 10
REFIT_UNTIL = 508
LIMIT = 6.0
_FAR = 1e3  # no indicator gets there
RANGE = 0.1


class Indicator(nn.Module):
    """The trained gate of one activation.

    Attributes:
        weight: (*unit shape) real parameters, one per pixel, channel or layer.
        state: (*unit shape) zeros and ones, moved by ``update`` only.
    """

    state: torch.Tensor

    def __init__(self, shape: tuple[int, ...], unit: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.rand(unit, generator=generator))
        self.register_buffer("state", torch.ones(unit))

    def forward(self) -> torch.Tensor:
        """The indicators as values; their gradient reaches the weight times softplus(weight)."""
        slope = functional.softplus(self.weight).detach()
        return (self.state + slope * (self.weight - self.weight.detach())).expand(self.shape)

    @torch.no_grad()
    def update(self, threshold: float) -> None:
        """The hysteresis."""
        stays, returns = self.weight > -threshold, self.weight > threshold
        self.state.copy_(torch.where(self.state > 0.5, stays, returns))


class _Search(Hooks):
    """Moves indicators before each step, pushes them towards the budget, refits polynomials at first."""

    def __init__(self, masked: Mapping[str, Masked], task: Task, mode: Literal["paper", "as_released"]) -> None:
        self.masked, self.task, self.mode = masked, task, mode
        self.gates = [m.gate for m in masked.values() if isinstance(m.gate, Indicator)]
        self.total = sum(m.node.size for m in masked.values())
        options = task.recipe.options
        self.threshold = options.get("hysteresis", HYSTERESIS)
        self.hinge = options.get("hinge", HINGE)
        self.rate = options.get("indicator_rate", 1.0)
        self.until = int(options.get("refit_until", REFIT_UNTIL))

    def before_step(self, model: nn.Module, step: int, steps: int) -> None:
        for gate in self.gates:
            gate.update(self.threshold)
        if step % REFIT_EVERY == 0 and 0 < step <= self.until:
            fit_polynomials(self.task.module, self.masked, self.task.batches(1, 256), self.mode)

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        kept = torch.stack([gate().sum() for gate in self.gates]).sum()
        hinge = self.hinge * (kept / self.total - self.task.relu_budget / self.total).clamp(min=0.0)
        return hinge + range_penalty(self.masked, self.task)

    def groups(self, model: nn.Module) -> list[dict[str, object]]:
        rate = self.task.recipe.search.learning_rate
        weights = {"params": [g.weight for g in self.gates], "lr": rate * self.rate, "weight_decay": 0.0}
        return [weights, *polynomial_groups(self.masked, rate * self.task.recipe.polynomials)]


class Coefficients(Hooks):
    """Keeps inputs of polynomials in their range; coefficients have their own rate and no weight decay."""

    def __init__(self, masked: Mapping[str, Masked], task: Task) -> None:
        self.masked, self.task = masked, task
        self.rate = task.recipe.finetune.learning_rate * task.recipe.polynomials

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return range_penalty(self.masked, self.task)

    def groups(self, model: nn.Module) -> list[dict[str, object]]:
        return polynomial_groups(self.masked, self.rate)


def range_penalty(masked: Mapping[str, Masked], task: Task) -> torch.Tensor:
    """What inputs of polynomials have beyond their limits, weighted; after a forward pass in training."""
    weight = task.recipe.options.get("range", RANGE)
    return weight * sum((m.excess for m in masked.values() if m.excess is not None), torch.zeros(()))


def polynomial_groups(masked: Mapping[str, Masked], rate: float) -> list[dict[str, object]]:
    """The trained coefficients as a parameter group."""
    found = [m.coef for m in masked.values() if m.coef.requires_grad]
    return [{"params": found, "lr": rate, "weight_decay": 0.0}]


def autorep(task: Task, mode: Literal["paper", "as_released"] = "paper") -> None:
    """See the module's docstring. Search with Adam, then fine-tuning with the mask fixed.

    Recipe options: ``hysteresis`` (0.003), ``hinge`` (the weight mu, 140), ``indicator_rate`` (learning rate
    of w relative to that of the weights, 1), ``refit_until`` (last step at which polynomials are refitted, 508),
    ``range`` (weight of the range penalty, 0.1).
    """
    masked = mask_relus(task)
    generator = torch.Generator().manual_seed(task.seed)
    fit_polynomials(task.module, masked, task.batches(), mode)
    if 0 < task.budget < task.module.comparisons:
        for m in masked.values():
            m.gate = Indicator(m.node.shape, units(m, task.granularity), generator)
        task.run("search", replace(task.recipe.search, choose=False), (_Search(masked, task, mode),))
        # Indicators that are on stay, the weakest not if they exceed the budget; momentum carries some out although
        # the budget was met, so the strongest of those that are off return until it is used.
        gates = {n: m.gate for n, m in masked.items() if isinstance(m.gate, Indicator)}
        keep_units(masked, {n: g.weight + 2.0 * _FAR * g.state for n, g in gates.items()}, task.relu_budget)
        for m in masked.values():
            m.gate = None
    elif task.budget == 0:
        for m in masked.values():
            m.mask.zero_()
    task.run("finetune", task.recipe.finetune, (Coefficients(masked, task),))


def fit_polynomials(
    module: GraphModule,
    masked: Mapping[str, Masked],
    batches: list[torch.Tensor],
    mode: Literal["paper", "as_released"] = "paper",
) -> None:
    """Coefficients of every activation from the mean and the deviation of its inputs, channel by channel.

    The limits for training come from the same statistics, once: six deviations of the widest channel. Later
    statistics are those of clipped values, which is what training sees.

    Raises:
        ParameterError: inputs are not finite; training has diverged.
    """
    sums: dict[str, tuple[torch.Tensor, torch.Tensor, int]] = {}

    def see(name: str, m: Masked, x: torch.Tensor) -> None:
        axis = channel_axis(m.node)
        x = x.clamp(-m.limit, m.limit)
        flat = x.float().reshape(-1, 1) if axis is None else x.float().movedim(axis + 1, -1).flatten(0, -2)
        before = sums.get(name, (torch.zeros(flat.shape[1]), torch.zeros(flat.shape[1]), 0))
        sums[name] = (before[0] + flat.sum(0), before[1] + flat.square().sum(0), before[2] + len(flat))

    handles = [
        m.register_forward_pre_hook(lambda layer, inputs, name=name: see(name, layer, inputs[0]))
        for name, m in masked.items()
        if m.kind != "identity"
    ]
    training = module.training
    module.eval()
    for m in masked.values():
        m.clipping = True
    with torch.no_grad():
        for x in batches:
            module(x)
    module.train(training)
    for m in masked.values():
        m.clipping = False
    for handle in handles:
        handle.remove()
    for name, (first, second, count) in sums.items():
        mean = (first / count).double().numpy()
        std = np.sqrt(np.maximum((second / count).double().numpy() - mean**2, 1e-6))
        if not np.isfinite(mean).all() or not np.isfinite(std).all():
            raise ParameterError(f"training has diverged: inputs of '{name}' are not finite", hint="a lower rate")
        coef = dapa(mean, std, DEGREES[masked[name].kind], mode=mode)
        with torch.no_grad():
            masked[name].coef.copy_(torch.from_numpy(coef))
        if not masked[name].bounded:
            masked[name].bound(float((np.abs(mean) + LIMIT * std).max()))
