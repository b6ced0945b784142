"""Hooks that keep what reaches an activation inside its interval while training, for any method.

A polynomial is only known on its interval. ``Pillar`` penalizes what comes near the interval's ends with a
growing power (PILLAR, 2023, section 4), ``Boundary`` what lies outside exponentially, ``Clipping`` cuts inputs
to the interval in training only, so that no step sees the polynomial's explosion. None of them exists in
evaluation mode: they are put on before an epoch and taken off after it.

Use: ``Task(..., hooks=(Pillar(5.0), Clipping(5.0)))``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from pi_compiler.errors import ParameterError
from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.steps import Activation

__all__ = ["Boundary", "Clipping", "Pillar"]

_WARM_UP = ((4, 1 / 100), (6, 1 / 50), (8, 1 / 10), (10, 1 / 5))


class _Watching(Hooks):
    """Sees the inputs of every activation that was replaced.

    Args:
        bound: inputs should lie in [-bound, bound].
    """

    def __init__(self, bound: float) -> None:
        if not bound > 0:
            raise ParameterError(f"a range bound of {bound} must be positive")
        self.bound = bound
        self.inputs: list[torch.Tensor] = []
        self.handles: list[RemovableHandle] = []

    def before_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        steps = [m for m in model.modules() if isinstance(m, Activation) and m.function is not None]
        self.handles = [s.register_forward_pre_hook(lambda _, inputs: self.see(inputs[0])) for s in steps]

    def see(self, x: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        """Called with the input; what is returned takes its place."""
        if torch.is_grad_enabled():
            self.inputs.append(x)
        return None

    def after_step(self, model: nn.Module) -> None:
        self.inputs.clear()

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
        for handle in self.handles:
            handle.remove()
        self.handles = []
        self.inputs.clear()
        return True


class Pillar(_Watching):
    """``weight`` times the mean over activations of the mean of (x / r)^10, with r at 96 % of the bound.

    In the first four epochs the power is 4, 6, 8 and 10 and the weight a hundredth, a fiftieth, a tenth and
    a fifth. The published r and bound are 4.8 and 5; the published weights are 5e-5 (ResNet-18) to 1e-2
    (ResNet-32), with the norm of x in place of the number of elements in some runs.
    """

    def __init__(self, bound: float = 5.0, weight: float = 1e-2) -> None:
        super().__init__(bound)
        self.weight, self.power, self.share = weight, 10, 1.0

    def before_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        super().before_epoch(model, epoch, epochs)
        self.power, self.share = _WARM_UP[epoch - 1] if epoch <= len(_WARM_UP) else (10, 1.0)

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:
        if not self.inputs:
            return None
        r = 0.96 * self.bound
        terms = [(v.float() / r).square().pow(self.power // 2).mean() for v in self.inputs]
        return self.weight * self.share * torch.stack(terms).mean()


class Boundary(_Watching):
    """``weight`` times the mean over activations of the mean of exp(distance outside the interval) - 1.

    The distance is in units of the bound and counts up to ``steepest``, beyond which the loss goes on linearly.
    """

    def __init__(self, bound: float = 5.0, weight: float = 1.0, steepest: float = 3.0) -> None:
        super().__init__(bound)
        self.weight, self.steepest = weight, steepest

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor | None:
        if not self.inputs:
            return None
        terms = []
        for v in self.inputs:
            outside = (v.float().abs() / self.bound - 1.0).clamp(min=0.0)
            near = outside.clamp(max=self.steepest)
            terms.append((near.expm1() + (outside - near) * near.exp()).mean())
        return self.weight * torch.stack(terms).mean()


class Clipping(_Watching):
    """Inputs are cut to the interval in training; gradients of what is cut are zero."""

    def see(self, x: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        return (x.clamp(-self.bound, self.bound),) if torch.is_grad_enabled() else None
