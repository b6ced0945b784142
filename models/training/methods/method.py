"""What a budget method is: it takes an all-ReLU network and leaves at most so many comparisons in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import torch
from torch import nn

from pi_compiler.errors import BudgetError
from pi_compiler.models.data import Dataset
from pi_compiler.models.training.engine import Epoch, Hooks, Settings, fit
from pi_compiler.models.training.forms import Forms
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import Kind, Masked, channel_axis
from pi_compiler.models.training.steps import Activation

__all__ = ["Granularity", "Method", "Recipe", "Stage", "Task", "keep_units", "mask_relus", "per_unit", "units"]

Granularity: TypeAlias = Literal["pixel", "channel", "layer"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a method trains.

    Attributes:
        search: while the mask is being found.
        finetune: after it is fixed.
        polynomials: learning rate of coefficients relative to the weights'.
        options: numbers that only one method knows, by name.
    """

    search: Settings
    finetune: Settings
    polynomials: float = 0.1
    options: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stage:
    """One training run of a method and what its epochs came to."""

    name: str
    history: tuple[Epoch, ...]


@dataclass(slots=True)
class Task:
    """What a method is asked for.

    Attributes:
        module: the all-ReLU network, normalized; the method changes it in place.
        budget: most comparisons that may stay, for one sample.
        kind: what takes a ReLU's place.
        granularity: what is kept or replaced as one.
        data: what trains.
        validation: what chooses.
        recipe: how to train.
        seed: of everything random.
        teacher: the all-ReLU network, frozen; None distills nothing.
        folder: where checkpoints go, one subfolder per stage; None keeps none.
        progress: called after each epoch with stage, epoch, and number of epochs.
        hooks: what every stage has besides the method's own, such as ``ranges.Pillar``.
        forms: what a transformer's parts give way to, for the method that exchanges them.
        stages: filled by ``run``.
    """

    module: GraphModule
    budget: int
    kind: Kind
    granularity: Granularity
    data: Dataset
    validation: Dataset
    recipe: Recipe
    seed: int
    teacher: nn.Module | None = None
    folder: Path | None = None
    progress: Callable[[str, Epoch, int], None] | None = None
    hooks: tuple[Hooks, ...] = ()
    forms: Forms = field(default_factory=Forms)
    stages: list[Stage] = field(default_factory=list)

    def run(self, name: str, settings: Settings, hooks: tuple[Hooks, ...] = ()) -> list[Epoch]:
        """One stage of training, resumed if it was interrupted."""
        history = fit(
            self.module,
            settings,
            self.data,
            self.validation,
            seed=self.seed,
            folder=None if self.folder is None else self.folder / name,
            hooks=(*hooks, *self.hooks),
            teacher=self.teacher,
            progress=None if self.progress is None else lambda e, n: self.progress(name, e, n),  # type: ignore[misc]
        )
        self.stages.append(Stage(name, tuple(history)))
        return history

    @property
    def relu_budget(self) -> int:
        """Comparisons that ReLUs may have: the budget without those of other operators."""
        others = (a for a in self.module.relus.values() if a.node.op != "Relu")
        return self.budget - sum(a.comparisons for a in others)

    def batches(self, count: int = 8, size: int = 250) -> list[torch.Tensor]:
        """Some training samples without augmentation, spread over the split: for statistics."""
        step = max(1, len(self.data) // (count * size))
        x = torch.from_numpy(self.data.x[::step][: count * size])
        return list(torch.split(x, size))


class Method(Protocol):
    """Changes ``task.module`` so that it needs at most ``task.budget`` comparisons, and trains it."""

    def __call__(self, task: Task) -> None: ...


def mask_relus(task: Task) -> dict[str, Masked]:
    """Put a ``Masked`` (all ones) in the place of every ReLU; returns them by ONNX node name, in order.

    Raises:
        BudgetError: the network compares elsewhere than in ReLUs, and that alone exceeds the budget.
    """
    found: dict[str, Masked] = {}
    others: list[Activation] = []
    for name, activation in task.module.relus.items():
        if activation.node.op == "Relu":
            activation.function = found[name] = Masked(activation, task.kind)
        else:
            others.append(activation)
    fixed = sum(a.comparisons for a in others)
    if fixed > task.budget:
        raise BudgetError(
            f"{fixed} comparisons are not in ReLUs, the budget is {task.budget}",
            "; ".join(f"{a.node.op} '{a.node.origin}': {a.comparisons}" for a in others),
            hint="replace those operators by Relu before reducing",
        )
    return found


def units(m: Masked, granularity: Granularity) -> tuple[int, ...]:
    """The shape of one number per unit; it broadcasts to the activation's shape."""
    shape = m.node.shape
    if granularity == "pixel":
        return shape
    axis = channel_axis(m.node)
    if granularity == "channel" and axis is not None:
        return tuple(n if i == axis else 1 for i, n in enumerate(shape))
    return (1,) * len(shape)


def per_unit(values: torch.Tensor, unit: tuple[int, ...]) -> torch.Tensor:
    """Means over what each unit holds.

    Args:
        values: one number per element.
        unit: see ``units``.
    """
    axes = [i for i, n in enumerate(unit) if n != values.shape[i]]
    return values.mean(axes, keepdim=True) if axes else values


def keep_units(masked: Mapping[str, Masked], scores: Mapping[str, torch.Tensor], budget: int) -> None:
    """Fix the masks: units with the highest scores stay, as many as fit into the budget.

    Args:
        masked: activations by name.
        scores: one number per unit; minus infinity never stays.
        budget: elements that may stay in all.
    """
    found: list[tuple[float, int, str, int]] = []
    for name, values in scores.items():
        size = masked[name].node.size // values.numel()
        found += [(v, size, name, i) for i, v in enumerate(values.detach().reshape(-1).tolist()) if v > -math.inf]
    found.sort(key=lambda unit: -unit[0])
    kept: dict[str, list[int]] = {name: [] for name in scores}
    left = budget
    for _, size, name, i in found:
        if size <= left:
            kept[name].append(i)
            left -= size
    for name, values in scores.items():
        mask = torch.zeros(values.numel())
        mask[kept[name]] = 1.0
        masked[name].mask.copy_(mask.view(values.shape).expand(masked[name].node.shape))
