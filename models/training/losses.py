"""What training minimizes: cross-entropy, and terms that prepare a network for polynomials.

Large inputs of an activation cost approximation error and precision, so they are penalized. A
network with ReLU is moreover rehearsed with each ReLU replaced by the quadratic nearest to it over
the batch, the replacement that compiling it to degree 2 makes later.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pi_compiler.models.training.measure import watch_activations
from pi_compiler.models.training.recipes import Recipe

__all__ = ["nearest_quadratic", "training_loss"]


def training_loss(model: nn.Module, recipe: Recipe, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The recipe's loss of one batch, differentiable; x (n, *sample), y (n,) class numbers."""
    penalties: list[torch.Tensor] = []

    def see(_: str, before: torch.Tensor) -> None:
        excess = (before.abs() - recipe.range_bound).clamp(min=0.0)
        penalties.append(recipe.range_weight * excess.square().mean())
        if recipe.mismatch_weight:
            difference = nearest_quadratic(before) - before.relu()
            penalties.append(recipe.mismatch_weight * difference.square().mean())

    with watch_activations(model, see):
        loss: torch.Tensor = functional.cross_entropy(model(x), y)
    for penalty in penalties:
        loss = loss + penalty
    if recipe.rehearsal_weight:
        loss = loss + recipe.rehearsal_weight * functional.cross_entropy(_with_nearest_quadratics(model, x), y)
    return loss


def nearest_quadratic(x: torch.Tensor) -> torch.Tensor:
    """The quadratic nearest to ReLU in mean square over the entries of x, at x; coefficients carry no gradient."""
    basis = torch.stack([torch.ones_like(x), x, x * x], dim=-1).reshape(-1, 3)
    with torch.no_grad():
        coef = torch.linalg.solve(basis.T @ basis, basis.T @ x.reshape(-1).relu())
    values: torch.Tensor = basis @ coef
    return values.view_as(x)


def _with_nearest_quadratics(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The model's output when every ReLU is its nearest quadratic over the batch."""
    relus = [layer for layer in model.modules() if isinstance(layer, nn.ReLU)]
    handles = [
        layer.register_forward_hook(lambda _layer, inputs, _output: nearest_quadratic(inputs[0])) for layer in relus
    ]
    try:
        logits: torch.Tensor = model(x)
    finally:
        for handle in handles:
            handle.remove()
    return logits
