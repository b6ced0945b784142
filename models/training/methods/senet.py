"""SENet (Kundu et al., ICLR 2023): a budget per layer from sensitivities, then masks from gradients.

1. Sensitivity: prune the network's weights globally by magnitude; a layer of which much could be pruned
   leans on its ReLUs, so its ReLU sensitivity is the share that was pruned (section 3.1: one minus the
   pruning sensitivity). The budget is divided in proportion to sensitivity times size.
2. Masks: each epoch the elements with the largest accumulated |d loss / d mask| stay, exactly as many as the
   layer may have (section 3.2).
3. Fine-tuning with the teacher's answers and activations; the mismatch of activations has weight
   ``Settings.feature``, by default the paper's order of magnitude (section 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import Masked
from pi_compiler.models.training.methods.autorep import Coefficients, fit_polynomials, range_penalty
from pi_compiler.models.training.methods.method import Task, keep_units, mask_relus, per_unit, units
from pi_compiler.models.training.steps import Layer

__all__ = ["allocate", "senet", "sensitivities"]

DENSITY = 0.1
FEATURE = 1.0


class Probe(nn.Module):
    """A mask whose gradient is looked at.

    Attributes:
        saliency: (*shape) absolute gradients, summed over the steps of an epoch; zero after each.
    """

    saliency: torch.Tensor

    def __init__(self, owner: Masked) -> None:
        super().__init__()
        # In a list, so that it is not registered; the mask is looked up each time, for a change of the memory
        # format puts another tensor in its place.
        self.owner = [owner]
        self.register_buffer("saliency", torch.zeros_like(owner.mask))
        self.seen: torch.Tensor | None = None

    def forward(self) -> torch.Tensor:
        mask = self.owner[0].mask
        if not torch.is_grad_enabled():
            return mask
        self.seen = mask.clone().requires_grad_()
        return self.seen

    @torch.no_grad()
    def gather(self) -> None:
        """Add the last step's gradient."""
        if self.seen is not None and self.seen.grad is not None:
            self.saliency += torch.nan_to_num(self.seen.grad.abs())
        self.seen = None


class _Search(Hooks):
    """Moves every layer's mask to where the gradients were largest, after each epoch."""

    def __init__(self, masked: Mapping[str, Masked], shares: Mapping[str, int], task: Task) -> None:
        self.masked, self.shares, self.task = masked, shares, task

    def penalty(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return range_penalty(self.masked, self.task)

    def after_step(self, model: nn.Module) -> None:
        for m in self.masked.values():
            if isinstance(m.gate, Probe):
                m.gate.gather()

    def after_epoch(self, model: nn.Module, epoch: int, epochs: int) -> bool:
        for name, m in self.masked.items():
            if isinstance(m.gate, Probe):
                scores = per_unit(m.gate.saliency, units(m, self.task.granularity))
                keep_units({name: m}, {name: scores}, self.shares[name])
                m.gate.saliency.zero_()
        return True


def sensitivities(module: GraphModule, names: list[str], density: float = DENSITY) -> dict[str, float]:
    """ReLU sensitivity per activation: the share of the weights before it that global magnitude pruning removes.

    Args:
        module: the trained network.
        names: activations by ONNX node name.
        density: share of all weights that pruning leaves.

    Returns:
        Numbers in [0, 1]; 1 where no weights lead to the activation.
    """
    sizes = torch.cat([layer.weight.detach().abs().flatten() for layer in module.layers])
    threshold = float(sizes.kthvalue(max(1, int((1.0 - density) * len(sizes)))).values)
    found = {}
    for name in names:
        layers = _layers_before(module, name)
        left = sum(int((layer.weight.detach().abs() > threshold).sum()) for layer in layers)
        size = sum(layer.weight.numel() for layer in layers)
        found[name] = 1.0 - left / size if size else 1.0
    return found


def _layers_before(module: GraphModule, name: str) -> list[Layer]:
    """The layers whose results reach the activation without passing another layer or activation."""
    start = next(i for i, s in enumerate(module.order) if s.node.origin == name and s is module.activations[name])
    found, stack = [], list(module.wiring[start])
    while stack:
        at = stack.pop()
        step = module.order[at]
        if isinstance(step, Layer):
            found.append(step)
        elif step.node.origin not in module.activations:
            stack.extend(module.wiring[at])
    return found


def allocate(weights: Mapping[str, float], sizes: Mapping[str, int], budget: int) -> dict[str, int]:
    """Integers in proportion to weight times size, none above its size; their sum is the budget where that fits.

    Args:
        weights: per layer, not negative.
        sizes: per layer, the most it can have.
        budget: of all layers.
    """
    shares = dict.fromkeys(sizes, 0.0)
    open_layers, left = set(sizes), float(min(budget, sum(sizes.values())))
    while open_layers and left > 0:
        total = sum(max(weights[n], 1e-9) * sizes[n] for n in open_layers)
        rate = left / total
        full = {n for n in open_layers if rate * max(weights[n], 1e-9) >= 1.0}
        for n in full or open_layers:
            shares[n] = float(sizes[n]) if full else rate * max(weights[n], 1e-9) * sizes[n]
        if not full:
            break
        left -= sum(sizes[n] for n in full)
        open_layers -= full
    counts = {n: int(s + 1e-9) for n, s in shares.items()}
    spare = min(budget, sum(sizes.values())) - sum(counts.values())
    for n in sorted(sizes, key=lambda n: counts[n] - shares[n]):
        if spare > 0 and counts[n] < sizes[n]:
            counts[n], spare = counts[n] + 1, spare - 1
    return counts


def senet(task: Task) -> None:
    """See the module's docstring.

    Recipe options: ``density`` (of the pruned network, 0.1), ``feature`` (weight of the mismatch of activations
    where the fine-tuning's settings have none, 1), ``range`` (weight of the range penalty).
    """
    masked = mask_relus(task)
    fit_polynomials(task.module, masked, task.batches())
    options = task.recipe.options
    sizes = {n: m.node.size for n, m in masked.items()}
    weights = sensitivities(task.module, list(masked), options.get("density", DENSITY))
    shares = allocate(weights, sizes, task.relu_budget)
    finetune = task.recipe.finetune
    if task.teacher is not None and not finetune.feature:
        finetune = replace(finetune, feature=options.get("feature", FEATURE))
    if task.granularity == "layer":
        # A layer's share never holds a whole layer; the most sensitive layers stay.
        whole = {n: torch.full(units(m, "layer"), weights[n]) for n, m in masked.items()}
        keep_units(masked, whole, task.relu_budget)
    elif 0 < task.relu_budget < sum(sizes.values()):
        generator = torch.Generator().manual_seed(task.seed)
        for name, m in masked.items():
            scores = torch.rand(units(m, task.granularity), generator=generator)
            keep_units({name: m}, {name: scores}, shares[name])
            m.gate = Probe(m)
        # The last mask has seen the most trained weights.
        task.run("search", replace(task.recipe.search, choose=False), (_Search(masked, shares, task),))
        for m in masked.values():
            m.gate = None
    else:
        for name, m in masked.items():
            keep_units({name: m}, {name: torch.ones(units(m, task.granularity))}, shares[name])
    task.run("finetune", finetune, (Coefficients(masked, task),))
