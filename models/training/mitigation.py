"""Fine-tuning that keeps groups together: a Lagrangian with a real gradient, and its plain rivals.

For the loss L of a batch (cross-entropy and distillation) and L_g, that of group g's samples in it,
what is minimized is L + sum_g gamma_g v_g. In the published form v_g = |L_g - L| (Disparate Impact,
ICML 2024); ``one-sided`` is v_g = max(0, L_g - L), which never makes a group worse for being good.
The multipliers begin at zero and rise after every epoch by the rate times the epoch's sum of v_g
(dual ascent). The penalty is part of the computation graph: with gamma > 0 it moves the weights.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from pi_compiler.errors import ParameterError
from pi_compiler.ir.graph import IntArray
from pi_compiler.models.data import Dataset
from pi_compiler.models.training.engine import Hooks, Settings
from pi_compiler.models.training.fairness import Json, fairness
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import Masked
from pi_compiler.models.training.methods.autorep import Coefficients
from pi_compiler.models.training.methods.method import Task
from pi_compiler.models.training.score import observe

__all__ = ["Form", "GroupBalance", "GroupPenalty", "compare", "mitigate"]

Form: TypeAlias = Literal["absolute", "one-sided"]


class GroupPenalty(Hooks):
    """The Lagrangian; see the module's docstring.

    Batches are random, so a small group's loss in one batch is noisy and |L_g - L| has a floor: large
    batches, or few groups, serve it best.

    Attributes:
        multipliers: gamma, one a group; survives an interruption.
    """

    def __init__(self, groups: IntArray, rate: float, form: Form = "absolute") -> None:
        """Groups of the training split and the dual step.

        Args:
            groups: (n,) group number of every training sample, from 0.
            rate: of the dual ascent, mu.
            form: what counts as violation.

        Raises:
            ParameterError: negative group numbers or rate.
        """
        _check(groups, rate)
        self.groups_of = torch.from_numpy(np.asarray(groups, dtype=np.int64))
        self.count = int(groups.max()) + 1
        self.rate, self.form = rate, form
        self.multipliers = torch.zeros(self.count)
        self.violations = torch.zeros(self.count)

    def before_epoch(self, model: nn.Module, epoch: int, epochs: int) -> None:
        self.violations.zero_()

    def sample_penalty(self, rows: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        group = self.groups_of[rows]
        sizes = torch.bincount(group, minlength=self.count)
        sums = torch.zeros(self.count, dtype=losses.dtype).index_add(0, group, losses)
        excess = sums / sizes.clamp(min=1) - losses.mean()
        violation = excess.abs() if self.form == "absolute" else excess.clamp(min=0.0)
        violation = torch.where(sizes > 0, violation, 0.0)  # a group that the batch lacks violates nothing
        self.violations += torch.nan_to_num(violation.detach(), nan=0.0, posinf=0.0)
        return (self.multipliers * violation).sum()

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
        self.multipliers += self.rate * self.violations
        return True

    def state(self) -> dict[str, torch.Tensor]:
        return {"multipliers": self.multipliers.clone()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        if "multipliers" in state:
            self.multipliers.copy_(state["multipliers"])


class GroupBalance(Hooks):
    """Every group weighs alike: samples are weighted against the size of their group in the training split.

    The loss becomes (1 - share) times the mean over samples plus share times the mean over groups.
    """

    def __init__(self, groups: IntArray, share: float = 1.0) -> None:
        """Groups of the training split.

        Args:
            groups: (n,) group number of every training sample, from 0.
            share: 0 changes nothing, 1 balances fully.

        Raises:
            ParameterError: negative group numbers or share.
        """
        _check(groups, share)
        sizes = np.bincount(groups)
        weights = len(groups) / (np.count_nonzero(sizes) * sizes[groups])
        self.extra = torch.from_numpy((share * (weights - 1.0)).astype(np.float32))

    def sample_penalty(self, rows: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        return (self.extra[rows] * losses).mean()


def mitigate(task: Task, hook: Hooks | None, settings: Settings, name: str = "mitigation") -> GraphModule:
    """A fine-tuned copy of a reduced network; its masks stay, so its comparisons do.

    Args:
        task: whose module a method has reduced; data, seed, teacher and folder are its own.
        hook: a ``GroupPenalty`` or ``GroupBalance`` over ``task.data``; None is the control that any mitigation
            is to be compared with: as much fine-tuning without it.
        settings: how to train.
        name: of the stage, and of its folder.
    """
    module = copy.deepcopy(task.module)
    masked = {n: a.function for n, a in module.relus.items() if isinstance(a.function, Masked)}
    tuned = replace(task, module=module, recipe=replace(task.recipe, finetune=settings))
    hooks: tuple[Hooks, ...] = (Coefficients(masked, tuned),)
    tuned.run(name, settings, hooks if hook is None else (*hooks, hook))
    observe(module, task.data)
    return module


def compare(control: nn.Module, mitigated: nn.Module, baseline: nn.Module, data: Dataset) -> Json:
    """The record's ``fairness.mitigation``: ``fairness`` of both, and the share of the gap that was closed.

    Args:
        control: the reduced network, fine-tuned as long without mitigation.
        mitigated: with it.
        baseline: the all-ReLU network.
        data: what scores.

    Returns:
        ``control`` and ``mitigated``: as ``fairness`` returns; ``closed``: the fall of the drop's gap between
        the groups that the control hits most and least, as a share of it; None where there was no gap.
    """
    before, after = fairness(control, baseline, data), fairness(mitigated, baseline, data)
    gap, drops = before["gap"], {r["name"]: r["drop"] for r in after["groups"]}  # type: ignore[attr-defined]
    left = drops[gap["worst"]] - drops[gap["least"]]  # type: ignore[index]
    closed = 1.0 - left / gap["drop"] if gap["drop"] else None  # type: ignore[index]
    return {"control": before, "mitigated": after, "closed": closed}


def _check(groups: IntArray, rate: float) -> None:
    faults = []
    if groups.ndim != 1 or not len(groups) or int(groups.min()) < 0:
        faults.append("group numbers must be one integer from 0 on for every training sample")
    if not rate >= 0:
        faults.append(f"the rate {rate} must not be negative")
    if faults:
        raise ParameterError("groups cannot be kept together", *faults)
