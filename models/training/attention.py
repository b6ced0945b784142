"""Softmax and layer normalization as steps of a graph, and what may stand in their places.

Weights of attention: powers divided by their mean (Power-Softmax, Zimerman et al., AISTATS 2026, arXiv 2410.09457),
shifted squares divided by their sum (2Quad, MPCFormer, ICLR 2023), a quadratic divided by the length (as scaled ReLU
attention, Wortsman et al., 2023, and Zimerman et al., 2023), or softmax for scores that are normal along a row (arXiv
2602.01621). Normalization: by statistics of the training data (BatchNorm), or none but a trained scale. Each form is
written as the operators that run encrypted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import nn

from pi_compiler.errors import InternalError, ParameterError
from pi_compiler.ir.graph import Attr, Node
from pi_compiler.models.training.operations import tensor
from pi_compiler.models.training.steps import Norm, Step, horner, numbers
from pi_compiler.ops import forms
from pi_compiler.ops.joint import centers
from pi_compiler.ops.linear import affine
from pi_compiler.ops.op import array, integer, number, optional_array

__all__ = [
    "STEPS",
    "BatchStatistics",
    "CumulantWeights",
    "Form",
    "Normalization",
    "PowerWeights",
    "QuadraticWeights",
    "Scaling",
    "Softmax",
    "TwoQuad",
]

_DELTA, _FAR = 1e-6, -1e9


class Form(nn.Module):
    """What stands in the place of a softmax or a normalization: x (B, *shape) in, the same shape out.

    Attributes:
        divisor: what it divided by in its last pass, None if it divides by nothing.
    """

    divisor: torch.Tensor | None = None
    mask: torch.Tensor | None

    def write(self, x: Node, node: Node) -> Node:
        """What it computes in evaluation mode, as nodes on x; a second operand of the node is 1 at open places."""
        raise InternalError(f"{type(self).__name__} cannot be written")


class _Replaceable(Step):
    """A step with a form in its place.

    Attributes:
        form: None is the original.
        seen: what reached it in its last pass with gradients.
    """

    form: Form | None
    mask: torch.Tensor | None

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.form = None
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, *open_: torch.Tensor) -> torch.Tensor:
        self.seen = x if torch.is_grad_enabled() else None
        y: torch.Tensor = self.original(x, *open_) if self.form is None else self.form(x, *open_)
        return y

    def original(self, x: torch.Tensor, *open_: torch.Tensor) -> torch.Tensor:
        """The operator of the node."""
        raise InternalError(f"{type(self).__name__} has no meaning of its own")

    def write(self, inputs: tuple[Node, ...]) -> Node:
        if self.form is None:
            return super().write(inputs)
        return self.form.write(inputs[0], replace(self.node, inputs=inputs))


class Softmax(_Replaceable):
    """``InnerSoftmax``: weights of attention along an axis, hidden places zero."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        mask = optional_array(node, "mask")
        self.register_buffer("mask", None if mask is None else tensor(mask), persistent=False)

    def original(self, x: torch.Tensor, *open_: torch.Tensor) -> torch.Tensor:
        mask = self.mask
        scores = x if mask is None else x.masked_fill(mask == 0.0, -torch.inf)
        for places in open_:
            # Not minus infinity: a row may have no open place at all.
            scores = scores.masked_fill(_aligned(places, scores) < 0.5, _FAR)
        return scores.softmax(integer(self.node, "axis") + 1)


class Normalization(_Replaceable):
    """``LayerNorm``; scale and bias are trained.

    Attributes:
        variance: of what reached it in its last pass, epsilon included.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.shape = array(node, "scale").shape
        bias = optional_array(node, "bias")
        self.scale = nn.Parameter(tensor(array(node, "scale").reshape(-1)))
        self.bias = nn.Parameter(tensor(np.zeros(self.shape) if bias is None else bias).reshape(-1))
        self.variance: torch.Tensor | None = None

    def original(self, x: torch.Tensor, *open_: torch.Tensor) -> torch.Tensor:
        axes = list(range(integer(self.node, "axis") + 1, x.dim()))
        rest = x - x.mean(axes, keepdim=True) if centers(self.node) else x
        variance = rest.square().mean(axes, keepdim=True) + number(self.node, "epsilon")
        self.variance = variance if torch.is_grad_enabled() else None
        return rest * variance.rsqrt() * self.scale.view(self.shape) + self.bias.view(self.shape)

    def attrs(self) -> Mapping[str, Attr]:
        if self.form is not None:
            return {}
        return {"scale": numbers(self.scale).reshape(self.shape), "bias": numbers(self.bias).reshape(self.shape)}


class PowerWeights(Form):
    """``x^p / (L mean(x^p) + L eps)`` over an axis of length L; hidden places are zero.

    It is computed on scores divided by their largest magnitude c, with eps / c^p in place of eps: the same
    weights, without powers that leave float's range. Written, it divides by the mean, whose interval
    does not depend on L, and 1 / L is a factor.

    Args:
        node: the softmax.
        power: p, even.
        eps: added to the mean; the least value of the divisor.
    """

    def __init__(self, node: Node, power: int = 2, eps: float = 1e-2) -> None:
        super().__init__()
        if power < 2 or power % 2 or not eps > 0.0:
            raise ParameterError(f"Power-Softmax with power {power} and eps {eps:g}", hint="an even power, eps above 0")
        self.axis, self.power, self.eps = integer(node, "axis") + 1, power, eps
        mask = optional_array(node, "mask")
        self.register_buffer("mask", None if mask is None else tensor(mask), persistent=False)

    def forward(self, x: torch.Tensor, *open_: torch.Tensor) -> torch.Tensor:
        x = _opened(x, self.mask, open_)
        largest = x.detach().abs().amax(self.axis, keepdim=True) + _DELTA
        powered = (x / largest) ** self.power
        divisor = powered.mean(self.axis, keepdim=True) + self.eps / largest**self.power
        self.divisor = divisor * largest**self.power if torch.is_grad_enabled() else None
        return powered / (divisor * x.shape[self.axis])

    def write(self, x: Node, node: Node) -> Node:
        return forms.power_softmax(x, node, self.power, self.eps)


class TwoQuad(Form):
    """``(x + c)² / sum (x + c)²``; c is trained and should stay above the largest negative score.

    Args:
        node: the softmax.
        shift: c at first; 5 in MPCFormer.
    """

    def __init__(self, node: Node, shift: float = 5.0) -> None:
        super().__init__()
        self.axis = integer(node, "axis") + 1
        self.shift = nn.Parameter(torch.tensor([float(shift)]))
        mask = optional_array(node, "mask")
        self.register_buffer("mask", None if mask is None else tensor(mask), persistent=False)

    def forward(self, x: torch.Tensor, *open_: torch.Tensor) -> torch.Tensor:
        squares = _opened((x + self.shift).square(), self.mask, open_)
        total = squares.mean(self.axis, keepdim=True)
        self.divisor = total if torch.is_grad_enabled() else None
        return squares / (total * x.shape[self.axis])

    def write(self, x: Node, node: Node) -> Node:
        return forms.two_quad(x, node, float(self.shift.detach()))


class QuadraticWeights(Form):
    """``(a x² + b x + c) / L``: no division, one level; a, b, c are trained, from ReLU's Hermite expansion.

    Args:
        node: the softmax.
        coef: c, b, a at first.
    """

    def __init__(self, node: Node, coef: tuple[float, float, float] = (0.2, 0.5, 0.2)) -> None:
        super().__init__()
        self.axis = integer(node, "axis") + 1
        self.coef = nn.Parameter(torch.tensor(coef))
        mask = optional_array(node, "mask")
        self.register_buffer("mask", None if mask is None else tensor(mask), persistent=False)

    def forward(self, x: torch.Tensor, *open_: torch.Tensor) -> torch.Tensor:
        return _opened(horner(self.coef, x) / x.shape[self.axis], self.mask, open_)

    def write(self, x: Node, node: Node) -> Node:
        coef = numbers(self.coef) / x.shape[self.axis - 1]
        return forms.quadratic_weights(x, node, coef)


class CumulantWeights(Form):
    """``exp(s - mu - sigma² / 2) / n`` over a row's open places, see ``ops.forms.cgf_softmax``; nothing is divided by.

    Args:
        node: the softmax.
        momentum: of ``peak``, the largest weight of a batch relative to its row's mean weight, which the polynomial's
            error will be relative to.
    """

    peak: torch.Tensor

    def __init__(self, node: Node, momentum: float = 0.1) -> None:
        super().__init__()
        self.axis, self.momentum = integer(node, "axis") + 1, momentum
        mask = optional_array(node, "mask")
        self.register_buffer("mask", None if mask is None else tensor(mask), persistent=False)
        self.register_buffer("peak", torch.ones(()))

    def forward(self, x: torch.Tensor, *open_: torch.Tensor) -> torch.Tensor:
        shown = _opened(torch.ones_like(x), self.mask, open_)
        count = shown.sum(self.axis, keepdim=True).clamp(min=1.0)
        mean = (x * shown).sum(self.axis, keepdim=True) / count
        centered = (x - mean) * shown
        variance = centered.square().sum(self.axis, keepdim=True) / count
        weights = (centered - variance / 2.0).exp() * shown
        if self.training and torch.is_grad_enabled():
            self.peak.lerp_(weights.detach().amax(), self.momentum)
        return weights / count

    def write(self, x: Node, node: Node) -> Node:
        return forms.cgf_softmax(x, node, float(self.peak), forms.shares_of_open(node))


def _opened(x: torch.Tensor, mask: torch.Tensor | None, open_: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Zero at hidden places."""
    x = x if mask is None else x * mask
    for places in open_:
        x = x * _aligned(places, x)
    return x


def _aligned(places: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Places (n, ...) with as many axes as x, the new ones behind the samples."""
    return places.reshape(len(places), *(1,) * (x.dim() - places.dim()), *places.shape[1:])


class BatchStatistics(Form):
    """BatchNorm over the normalized axes instead of LayerNorm: linear once it is trained.

    Args:
        step: the normalization, whose scale and bias it starts from.
    """

    def __init__(self, step: Normalization) -> None:
        super().__init__()
        self.first = integer(step.node, "axis") + 1
        self.shape = step.node.shape[self.first - 1 :]
        self.norm = Norm(int(np.prod(self.shape)))
        with torch.no_grad():
            self.norm.weight.copy_(step.scale.expand(self.norm.num_features))
            self.norm.bias.copy_(step.bias.expand(self.norm.num_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(x.reshape(-1, self.norm.num_features))
        return y.reshape(x.shape)

    def write(self, x: Node, node: Node) -> Node:
        mean, variance = self.norm.running_mean, self.norm.running_var
        if mean is None or variance is None:
            raise InternalError("a BatchNorm without running statistics cannot be written")
        scale = numbers(self.norm.weight) / np.sqrt(numbers(variance) + self.norm.eps)
        shift = numbers(self.norm.bias) - numbers(mean) * scale
        return affine(x, scale.reshape(self.shape), shift.reshape(self.shape), node.origin)


class Scaling(Form):
    """No normalization: a trained scale and bias remain.

    Args:
        step: the normalization, whose scale and bias it starts from.
    """

    def __init__(self, step: Normalization) -> None:
        super().__init__()
        self.shape = step.shape
        self.scale, self.bias = nn.Parameter(step.scale.detach().clone()), nn.Parameter(step.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale.view(self.shape) + self.bias.view(self.shape)

    def write(self, x: Node, node: Node) -> Node:
        return affine(x, numbers(self.scale).reshape(self.shape), numbers(self.bias).reshape(self.shape), node.origin)


STEPS: Final[Mapping[str, type[Step]]] = MappingProxyType({"InnerSoftmax": Softmax, "LayerNorm": Normalization})
"""Steps by operator."""
