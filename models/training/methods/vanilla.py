"""VanillaNet's schedule (Chen et al., NeurIPS 2023): ReLUs fade to the identity, then layers without one between fuse.

A'(x) = (1 - l) A(x) + l x, with l growing from 0 to 1 in the first third of the training (section 3.1: 100 of 300
epochs), by epochs. The units that fade are those whose replacement changes their value least. Afterwards
``fusion.fuse_layers`` turns two layers with nothing between them into one where that saves multiplications.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.masked import Masked
from pi_compiler.models.training.methods.autorep import polynomial_groups, range_penalty
from pi_compiler.models.training.methods.baselines import changes
from pi_compiler.models.training.methods.method import Task, keep_units, mask_relus

__all__ = ["Fading", "vanilla"]

DECAY = 1 / 3


class Fading(nn.Module):
    """The gate of one activation: kept elements stay at 1, the others go from 1 to 0.

    Attributes:
        kept: (*shape) ones where the ReLU stays.
        share: of the others' ReLU that is left; a buffer, so that checkpoints have it.
    """

    kept: torch.Tensor
    share: torch.Tensor

    def __init__(self, kept: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept.clone())
        self.register_buffer("share", torch.ones(()))

    def forward(self) -> torch.Tensor:
        return self.kept + (1.0 - self.kept) * self.share


class _Schedule(Hooks):
    """Lowers the shares before each epoch; epochs in which something still fades are not eligible."""

    def __init__(self, masked: Mapping[str, Masked], task: Task) -> None:
        self.masked, self.task = masked, task
        self.decay = task.recipe.options.get("decay", DECAY)
        self.cosine = bool(task.recipe.options.get("cosine", 0.0))

    def before_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        # At least the last epoch trains the network that is left.
        until = max(1, min(round(self.decay * epochs), epochs - 1)) if epochs > 1 else 0
        gone = min(1.0, (epoch - 1) / until) if until else 1.0
        left = 0.5 * (1.0 + math.cos(math.pi * gone)) if self.cosine else 1.0 - gone
        for gate in self.gates():
            gate.share.fill_(left if gone < 1.0 else 0.0)

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return range_penalty(self.masked, self.task)

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
        return all(float(gate.share) == 0.0 for gate in self.gates())

    def groups(self, model: nn.Module) -> list[dict[str, object]]:
        return polynomial_groups(self.masked, self.task.recipe.finetune.learning_rate * self.task.recipe.polynomials)

    def gates(self) -> list[Fading]:
        """Of all activations."""
        return [m.gate for m in self.masked.values() if isinstance(m.gate, Fading)]


def vanilla(task: Task) -> None:
    """See the module's docstring. With kind ``identity`` it is the paper's; polynomials fade in likewise.

    Recipe options: ``decay`` (share of the epochs in which ReLUs fade, 1/3), ``cosine`` (0 fades linearly),
    ``range`` (weight of the range penalty).
    """
    masked = mask_relus(task)
    keep_units(masked, changes(task, masked), task.relu_budget)
    for m in masked.values():
        m.gate = Fading(m.mask)
    task.run("finetune", task.recipe.finetune, (_Schedule(masked, task),))
    for m in masked.values():
        m.gate = None
