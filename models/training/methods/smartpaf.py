"""SmartPAF (Tong et al., MLSys 2024): layer after layer becomes a polynomial, coefficients and weights take turns.

In the order of inference a layer's ReLUs are replaced by the polynomial fitted to the inputs it sees then
(coefficient tuning), and the network up to it is trained: first the coefficients with weights frozen, then the
weights with coefficients frozen (progressive approximation, alternate training; sections 4.1 to 4.3). BatchNorm
statistics stand still meanwhile. At the end everything is fine-tuned together. Coefficients and intervals are
constants of the result: nothing is scaled by a batch (section 4.4, static scaling).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from pi_compiler.models.training.methods.method import Task, mask_relus
from pi_compiler.models.training.steps import Norm

__all__ = ["smartpaf"]

COEFFICIENT_RATE, COEFFICIENT_DECAY = 1e-4, 1e-2
WEIGHT_RATE, WEIGHT_DECAY = 1e-5, 1e-1


class _Turn(Hooks):
    """One side trains; statistics of normalization stand still."""

    def __init__(self, masked: Mapping[str, Masked], task: Task, rate: float, decay: float) -> None:
        self.masked, self.task, self.rate, self.decay = masked, task, rate, decay

    def before_step(self, model: nn.Module, step: int, steps: int) -> None:
        for layer in model.modules():
            if isinstance(layer, Norm):
                layer.eval()

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return range_penalty(self.masked, self.task)

    def groups(self, model: nn.Module) -> list[dict[str, object]]:
        return [{**g, "weight_decay": self.decay} for g in polynomial_groups(self.masked, self.rate)]


def smartpaf(task: Task) -> None:
    """See the module's docstring; layers are replaced until the budget is met, so the last ones stay.

    Recipe options: ``coefficient_rate`` (Adam, 1e-4), ``weight_rate`` (Adam, 1e-5), ``range``. The epochs of
    ``recipe.search`` are shared out among the turns, at least one each; the paper has twenty.
    """
    masked = mask_relus(task)
    going = _going(masked, task.relu_budget)
    options, search = task.recipe.options, task.recipe.search
    epochs = max(1, search.epochs // max(1, 2 * len(going)))
    turns = (
        ("coefficients", options.get("coefficient_rate", COEFFICIENT_RATE), COEFFICIENT_DECAY),
        ("weights", options.get("weight_rate", WEIGHT_RATE), WEIGHT_DECAY),
    )
    for number, name in enumerate(going):
        fit_polynomials(task.module, {name: masked[name]}, task.batches())
        masked[name].mask.zero_()
        if search.epochs == 0:
            continue
        for turn, rate, decay in turns:
            settings = replace(
                search,
                epochs=epochs,
                optimizer="adamw",
                learning_rate=rate,
                weight_decay=decay,
                schedule="cosine",
                choose=False,
            )
            with _frozen(task, masked, name, turn == "weights"):
                if any(p.requires_grad for p in task.module.parameters()):
                    task.run(f"{number}-{turn}", settings, (_Turn(masked, task, rate, decay),))
    task.run("finetune", task.recipe.finetune, (Coefficients(masked, task),))


def _going(masked: Mapping[str, Masked], budget: int) -> Sequence[str]:
    """Layers to be replaced: the first ones, as few as bring the rest within the budget."""
    left, found = sum(m.node.size for m in masked.values()), []
    for name, m in masked.items():
        if left <= budget:
            break
        found.append(name)
        left -= m.node.size
    return found


@contextmanager
def _frozen(task: Task, masked: Mapping[str, Masked], last: str, weights: bool) -> Iterator[None]:
    """Inside the block only one side trains, and only up to the activation ``last``."""
    module = task.module
    end = next(i for i, step in enumerate(module.order) if step is module.activations[last])
    before = {p: p.requires_grad for p in module.parameters()}
    coefficients = {m.coef for m in masked.values()}
    reached = {p for step in module.order[: end + 1] for p in step.parameters()}
    for p, trained in before.items():
        p.requires_grad_(trained and p in reached and (p not in coefficients) == weights)
    try:
        yield
    finally:
        for p, trained in before.items():
            p.requires_grad_(trained)
