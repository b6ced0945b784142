"""What a trained network does on data: accuracy, ranges before activations, quadratics for its ReLUs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pi_compiler.models.data import Dataset
from pi_compiler.models.zoo.activations import Quadratic, Square

__all__ = ["ACTIVATIONS", "accuracy", "largest_inputs", "quadratic_fits", "watch_activations", "with_quadratics"]

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, Square, Quadratic)
_BATCH = 1_000


def accuracy(model: nn.Module, data: Dataset) -> tuple[float, float]:
    """Fraction of correct predictions and mean cross-entropy; an answer that is not finite is wrong."""
    model.eval()
    correct, loss = 0, 0.0
    labels = torch.from_numpy(data.labels)
    with torch.no_grad():
        for start in range(0, len(data), _BATCH):
            y = labels[start : start + _BATCH]
            logits = model(torch.from_numpy(data.x[start : start + _BATCH]))
            finite = torch.isfinite(logits).all(1)
            correct += int((finite & (logits.argmax(1) == y)).sum())
            loss += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
    return correct / len(data), loss / len(data)


@contextmanager
def watch_activations(
    model: nn.Module, see: Callable[[str, torch.Tensor], None], kinds: tuple[type[nn.Module], ...] = ACTIVATIONS
) -> Iterator[None]:
    """Calls ``see(name, input)`` for every activation of these kinds in every forward pass inside the block."""

    def hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _, inputs: see(name, inputs[0])

    named = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, kinds)]
    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in named]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def largest_inputs(model: nn.Module, data: Dataset) -> dict[str, float]:
    """Largest absolute value that reaches each activation on ``data``, by activation name."""
    largest: dict[str, float] = {}

    def see(name: str, x: torch.Tensor) -> None:
        largest[name] = max(largest.get(name, 0.0), float(x.abs().max()))

    with watch_activations(model, see):
        accuracy(model, data)
    return largest


def quadratic_fits(model: nn.Module, data: Dataset) -> dict[str, tuple[float, float, float]]:
    """For every ReLU the quadratic c0 + c1 x + c2 x² nearest to it in mean square over its inputs on ``data``."""
    moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def see(name: str, x: torch.Tensor) -> None:
        x = x.flatten().double()
        basis = torch.stack([torch.ones_like(x), x, x * x])
        gram, right = basis @ basis.T, basis @ x.relu()
        before = moments.get(name)
        moments[name] = (gram, right) if before is None else (before[0] + gram, before[1] + right)

    with watch_activations(model, see, (nn.ReLU,)):
        accuracy(model, data)
    fits = {}
    for name, (gram, right) in moments.items():
        c0, c1, c2 = torch.linalg.solve(gram, right).tolist()
        fits[name] = (c0, c1, c2)
    return fits


def with_quadratics(model: nn.Module, data: Dataset, one_by_one: bool = False) -> nn.Module:
    """A copy with each ReLU replaced by its ``quadratic_fits``; the weights stay.

    Args:
        model: any network whose ReLUs are modules, each used once.
        data: what the fits see.
        one_by_one: fit each ReLU to what arrives after those before it were replaced, instead of
            to what arrives in the network as it was.
    """
    replaced = copy.deepcopy(model).eval()
    fits = quadratic_fits(replaced, data)
    for name in list(fits):
        fit = quadratic_fits(replaced, data)[name] if one_by_one else fits[name]
        replaced.set_submodule(name, _polynomial(fit))
    return replaced


def _polynomial(coef: tuple[float, float, float]) -> Quadratic:
    layer = Quadratic(1, axes=0)
    with torch.no_grad():
        for parameter, value in zip((layer.c, layer.b, layer.a), coef, strict=True):
            parameter.fill_(value)
    return layer
