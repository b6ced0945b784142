"""What a loss looks like around one group's samples: gradient, curvature, distance to the decision boundary.

These are the quantities by which unequal losses are explained: groups with large gradients and close
boundaries lose most when ReLUs go (Disparate Impact, ICML 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.nn import functional

from pi_compiler.models.data import Dataset

__all__ = ["Distances", "boundary_distances", "gradient_norm", "top_curvature"]

_BATCH = 500
_Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Distances:
    """How far samples (n,) are from another answer.

    Attributes:
        margin: largest less second largest probability, in [0, 1].
        radius: change of the input, in the 2-norm, that would make the runner-up the answer if the network
            were linear; zero where the network gives no finite answer.
    """

    margin: NDArray[np.float64]
    radius: NDArray[np.float64]


def gradient_norm(model: nn.Module, data: Dataset) -> float:
    """2-norm of the gradient, by all weights, of the mean cross-entropy; in evaluation mode."""
    weights = _weights(model)
    total = [torch.zeros_like(w) for w in weights.values()]
    for start in range(0, len(data), _BATCH):
        loss = _loss(model, weights, data, start, len(data))
        for sum_, g in zip(total, _gradient(loss, weights), strict=True):
            sum_ += g
    return float(torch.cat([t.reshape(-1) for t in total]).double().norm())


def top_curvature(model: nn.Module, data: Dataset, tolerance: float = 1e-2) -> float:
    """Largest eigenvalue of the Hessian of the mean cross-entropy, by Lanczos on Hessian-vector products.

    Args:
        model: the network, in evaluation mode.
        data: not more samples than one backward pass through the gradient can hold.
        tolerance: relative.
    """
    weights = _weights(model)
    loss = _loss(model, weights, data, 0, len(data), None)
    gradient = torch.cat([g.reshape(-1) for g in _gradient(loss, weights, again=True)])

    def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        along = torch.from_numpy(vector.reshape(-1)).to(gradient)
        rows = torch.autograd.grad(gradient @ along, list(weights.values()), retain_graph=True, allow_unused=True)
        return np.concatenate([_or_zero(r, w).reshape(-1) for r, w in zip(rows, weights.values(), strict=True)]).astype(
            np.float64
        )

    n = len(gradient)
    start = np.random.default_rng(0).standard_normal(n)
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    return float(eigsh(operator, k=1, which="LA", tol=tolerance, v0=start, return_eigenvectors=False)[0])


def boundary_distances(model: nn.Module, data: Dataset) -> Distances:
    """Probability margin, and distance to the linearized boundary of the runner-up (DeepFool's first step)."""
    model.eval()
    margins, radii = [], []
    for start in range(0, len(data), _BATCH):
        x = torch.from_numpy(data.x[start : start + _BATCH]).requires_grad_()
        logits = model(x).flatten(1)
        first = torch.nan_to_num(logits.detach()).topk(2, dim=1).indices
        best = logits.gather(1, first)
        (slope,) = torch.autograd.grad((best[:, 0] - best[:, 1]).sum(), x)
        probability = logits.detach().softmax(1).gather(1, first)
        margins.append(probability[:, 0] - probability[:, 1])
        radii.append((best[:, 0] - best[:, 1]).detach() / slope.flatten(1).norm(dim=1).clamp(min=1e-12))
    return Distances(_finite(torch.cat(margins)), _finite(torch.cat(radii)))


def _finite(values: torch.Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).double().numpy()
    return found


def _weights(model: nn.Module) -> _Weights:
    """The parameters with gradients of their own, whatever the model itself has frozen."""
    model.eval()
    return {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}


def _loss(
    model: nn.Module, weights: _Weights, data: Dataset, start: int, count: int, size: int | None = _BATCH
) -> torch.Tensor:
    """The share that samples from ``start`` on have in the mean over ``count``."""
    rows = slice(start, None if size is None else start + size)
    logits = torch.func.functional_call(model, weights, (torch.from_numpy(data.x[rows]),))
    labels = torch.from_numpy(data.labels[rows])
    return functional.cross_entropy(logits.flatten(1), labels, reduction="sum") / count


def _gradient(loss: torch.Tensor, weights: _Weights, again: bool = False) -> list[torch.Tensor]:
    """By all weights; ``again`` where it will be differentiated itself."""
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=again, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights.values(), strict=True)]


def _or_zero(row: torch.Tensor | None, weight: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (torch.zeros_like(weight) if row is None else row).detach().numpy()
    return found
