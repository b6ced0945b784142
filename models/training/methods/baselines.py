"""What any method of choosing must beat: ReLUs kept at random, and ReLUs kept where they change most."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pi_compiler.models.training.masked import Masked
from pi_compiler.models.training.methods.autorep import Coefficients, fit_polynomials
from pi_compiler.models.training.methods.method import Task, keep_units, mask_relus, per_unit, units

__all__ = ["by_magnitude", "by_random", "changes"]


def by_random(task: Task) -> None:
    """Keeps units drawn at random, then fine-tunes."""
    masked = mask_relus(task)
    generator = torch.Generator().manual_seed(task.seed)
    _finish(task, masked, {n: torch.rand(units(m, task.granularity), generator=generator) for n, m in masked.items()})


def by_magnitude(task: Task) -> None:
    """Keeps the units whose replacement changes their value most, mean square on training data; then fine-tunes."""
    masked = mask_relus(task)
    _finish(task, masked, changes(task, masked))


def changes(task: Task, masked: Mapping[str, Masked]) -> dict[str, torch.Tensor]:
    """Per unit the mean square of what replacing it changes, on training data; fits the polynomials first."""
    fit_polynomials(task.module, masked, task.batches())
    change: dict[str, torch.Tensor] = {}

    def see(name: str, m: Masked, x: torch.Tensor) -> None:
        difference = (m.original(x) - m.polynomial(x)).square().mean(0)
        change[name] = change.get(name, torch.zeros_like(difference)) + difference

    handles = [
        m.register_forward_pre_hook(lambda layer, inputs, name=name: see(name, layer, inputs[0]))
        for name, m in masked.items()
    ]
    task.module.eval()
    with torch.no_grad():
        for x in task.batches():
            task.module(x)
    for handle in handles:
        handle.remove()
    return {n: per_unit(change[n], units(m, task.granularity)) for n, m in masked.items()}


def _finish(task: Task, masked: Mapping[str, Masked], scores: Mapping[str, torch.Tensor]) -> None:
    fit_polynomials(task.module, masked, task.batches())
    keep_units(masked, scores, task.relu_budget)
    task.run("finetune", task.recipe.finetune, (Coefficients(masked, task),))
