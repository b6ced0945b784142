"""Every ReLU becomes its Hermite expansion of degree 2 with basis-wise normalization (AESPA, Park et al., 2022).

``y = gamma (f1 N(x) + f2 N((x² - 1) / sqrt 2)) + beta`` per channel, where N is BatchNorm without parameters of each
basis function by itself and f are the orthonormal Hermite coefficients of ReLU (section 4; the constant basis
function is normalized to zero). It takes the place of the BatchNorm before it as well. Written as a graph
it is one ``Poly`` of degree 2 per channel, which costs one level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from pi_compiler.errors import BudgetError
from pi_compiler.ir.graph import FloatArray, Node
from pi_compiler.models.training.engine import Hooks
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.masked import channel_axis
from pi_compiler.models.training.methods.method import Task, mask_relus
from pi_compiler.models.training.steps import Layer, Norm, Replacement, numbers
from pi_compiler.ops.op import same

__all__ = ["Hermite", "hermite"]

F1, F2 = 0.5, 1.0 / math.sqrt(4.0 * math.pi)


class Hermite(Replacement):
    """The normalized expansion.

    Attributes:
        gamma, beta: (channels,) trained.
        linear, square: the normalizations of x and of (x² - 1) / sqrt 2.
        low, high: the interval of the polynomial, set by ``score.observe``.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node
        axis = channel_axis(node)
        self.channels = 1 if axis is None else node.shape[axis]
        self.linear = Norm(self.channels, affine=False)
        self.square = Norm(self.channels, affine=False)
        self.gamma = nn.Parameter(torch.ones(self.channels))
        self.beta = nn.Parameter(torch.zeros(self.channels))
        self.register_buffer("low", torch.tensor(-1.0))
        self.register_buffer("high", torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.by_channel(x)
        shape = (1, -1, *(1,) * (flat.dim() - 2))
        y: torch.Tensor = F1 * self.linear(flat) + F2 * self.square((flat.square() - 1.0) / math.sqrt(2.0))
        y = self.gamma.view(shape) * y + self.beta.view(shape)
        return y.reshape(x.shape)

    def by_channel(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, channels, ...)."""
        return x.flatten(1).unsqueeze(1) if channel_axis(self.node) is None else x.flatten(0, 1)

    @torch.no_grad()
    def fit(self, moments: torch.Tensor) -> None:
        """Statistics of the inputs, and gamma and beta that come nearest to ReLU in mean square on them.

        Args:
            moments: (7, channels) float64 means of x, x², x³, x⁴, r, r x, r x², where r = ReLU(x).
        """
        m1, m2, m3, m4, r, rx, rxx = moments
        v1 = (m2 - m1.square()).clamp(min=1e-6)
        v2 = ((m4 - m2.square()) / 2.0).clamp(min=1e-6)
        for norm, mean, variance in ((self.linear, m1, v1), (self.square, (m2 - 1.0) / math.sqrt(2.0), v2)):
            norm.running_mean.copy_(mean)  # type: ignore[union-attr]
            norm.running_var.copy_(variance)  # type: ignore[union-attr]
        # y0 = a (x - m1) + b (x² - m2) has mean zero; gamma is its regression on r.
        a = F1 / (v1 + self.linear.eps).sqrt()
        b = F2 / (2.0 * (v2 + self.square.eps)).sqrt()
        with_r = a * (rx - m1 * r) + b * (rxx - m2 * r)
        spread = a.square() * (m2 - m1.square()) + 2.0 * a * b * (m3 - m1 * m2) + b.square() * (m4 - m2.square())
        self.gamma.copy_(with_r / spread.clamp(min=1e-12))
        self.beta.copy_(r)

    def coefficients(self) -> FloatArray:
        """(3, channels), lowest first: what it is in evaluation mode."""
        gamma, beta = numbers(self.gamma), numbers(self.beta)
        parts = []
        for norm in (self.linear, self.square):
            mean, variance = norm.running_mean, norm.running_var
            parts.append((numbers(mean), np.sqrt(numbers(variance) + norm.eps)))  # type: ignore[arg-type]
        (m1, s1), (m2, s2) = parts
        linear, square = gamma * F1 / s1, gamma * F2 / (math.sqrt(2.0) * s2)
        return np.stack([beta - linear * m1 - square * (1.0 + math.sqrt(2.0) * m2), linear, square])

    def write(self, x: Node, origin: str) -> Node:
        domain = np.repeat([[float(self.low)], [float(self.high)]], self.channels, axis=1)
        coef = self.coefficients()
        if channel_axis(self.node) is None:
            coef, domain = coef[:, 0], domain[:, 0]
        return same(x, "Poly", origin, basis="power", coef=coef, domain=domain)


class _Rates(Hooks):
    """No weight decay and a rate of their own for gamma and beta."""

    def __init__(self, functions: Mapping[str, Hermite], rate: float) -> None:
        self.functions, self.rate = functions, rate

    def groups(self, model: nn.Module) -> list[dict[str, object]]:
        found = [p for f in self.functions.values() for p in (f.gamma, f.beta)]
        return [{"params": found, "lr": self.rate, "weight_decay": 0.0}]


def hermite(task: Task) -> None:
    """Replace every ReLU, then train; for any budget, of which nothing is used.

    Recipe options: ``expansion_rate`` (learning rate of gamma and beta relative to the weights', 1).

    Raises:
        BudgetError: the network compares elsewhere than in ReLUs.
    """
    names = list(mask_relus(task))
    if not names:
        raise BudgetError("the network has no ReLU that an expansion could replace")
    module = task.module
    functions = {n: Hermite(module.activations[n].node) for n in names}
    _fold_norms(module, names)
    _fit(module, functions, task.batches())
    for name, function in functions.items():
        module.activations[name].function = function
    rate = task.recipe.finetune.learning_rate * task.recipe.options.get("expansion_rate", 1.0)
    task.run("finetune", task.recipe.finetune, (_Rates(functions, rate),))


def _fold_norms(module: GraphModule, names: list[str]) -> None:
    """BatchNorm that only an expansion sees goes into the weights; the expansion normalizes."""
    users: dict[int, list[int]] = {}
    for i, wires in enumerate(module.wiring):
        for w in wires:
            users.setdefault(w, []).append(i)
    for i, step in enumerate(module.order):
        if isinstance(step, Layer) and step.norm is not None:
            after = [module.order[u].node.origin for u in users.get(i, [])]
            if len(after) == 1 and after[0] in names:
                step.fold()


def _fit(module: GraphModule, functions: Mapping[str, Hermite], batches: list[torch.Tensor]) -> None:
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def see(name: str, x: torch.Tensor) -> None:
        flat = functions[name].by_channel(x).movedim(1, -1).flatten(0, -2).double()
        r = flat.relu()
        found = torch.stack([v.sum(0) for v in (flat, flat**2, flat**3, flat**4, r, r * flat, r * flat**2)])
        sums[name] = sums.get(name, torch.zeros_like(found)) + found
        counts[name] = counts.get(name, 0) + len(flat)

    handles = [
        module.activations[n].register_forward_pre_hook(lambda _, inputs, n=n: see(n, inputs[0])) for n in functions
    ]
    module.eval()
    with torch.no_grad():
        for x in batches:
            module(x)
    for handle in handles:
        handle.remove()
    for name, function in functions.items():
        function.fit(sums[name] / counts[name])
