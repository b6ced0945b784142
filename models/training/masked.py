"""An activation of which some elements keep their comparison and the others are a polynomial.

``y = m · ReLU(x) + (1 - m) · g(x)`` with a constant mask m of zeros and ones per element of a sample.
What is written as a graph compares exactly the elements that the mask keeps: they are gathered by a
public index, compared, and put back in their places. No mask reaches the result as a factor, so the
comparisons that an ONNX file shows are those that a protocol pays for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pi_compiler.errors import InternalError
from pi_compiler.ir.graph import FloatArray, IntArray, Node
from pi_compiler.models.training.steps import Activation, Replacement, horner, numbers
from pi_compiler.ops.op import same
from pi_compiler.ops.shaping import gather, reshape

__all__ = ["Kind", "Masked", "channel_axis"]

Kind: TypeAlias = Literal["identity", "linear", "quadratic"]
DEGREES: dict[Kind, int] = {"identity": 1, "linear": 1, "quadratic": 2}


def channel_axis(node: Node) -> int | None:
    """The axis of the node's shape along which coefficients may differ, None for a scalar."""
    return 1 if len(node.shape) > 1 else None


class Masked(Replacement):
    """A ReLU of which a mask says where it stays.

    Attributes:
        mask: (*shape) ones where the comparison stays. A buffer: it is set by methods, never by an
            optimizer, and no forward pass changes it.
        coef: (degree + 1, channels) coefficients of g, lowest first; frozen for identities.
        limit: while training, inputs are clipped to [-limit, limit] (PILLAR, 2023, section 4); infinite at first. A
            square of a square of a large value would otherwise be the last thing that training sees.
        clipping: clip in evaluation mode too, as statistics for training need it.
        excess: while training with a finite limit, the batch's mean of the squared part beyond it, summed over
            elements, in units of the limit; what a range penalty weighs.
        low, high: what reached g on the data that ``observe`` saw; the polynomial's interval.
        gate: what a method has in the mask's place while it trains; None is the mask.
    """

    mask: torch.Tensor
    limit: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, activation: Activation, kind: Kind) -> None:
        super().__init__()
        node = activation.node
        if node.op != "Relu":
            raise InternalError(f"{node!r} is no ReLU and cannot be masked")
        self.node, self.kind, self.original = node, kind, activation.original
        axis = channel_axis(node)
        channels = 1 if axis is None else node.shape[axis]
        self.register_buffer("mask", torch.ones(node.shape))
        self.register_buffer("limit", torch.tensor(torch.inf))
        self.bounded = False
        self.clipping = False
        self.excess: torch.Tensor | None = None
        self.register_buffer("low", torch.tensor(-1.0))
        self.register_buffer("high", torch.tensor(1.0))
        coef = torch.zeros(DEGREES[kind] + 1, channels)
        coef[1] = 1.0
        self.coef = nn.Parameter(coef, requires_grad=kind != "identity")
        self.gate: Callable[[], torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.excess = None
        if self.training and self.bounded:
            beyond = (x.abs() - self.limit).clamp(min=0.0) / self.limit
            self.excess = beyond.float().square().sum() / len(x)
        if self.bounded and (self.training or self.clipping):
            x = x.clamp(-self.limit, self.limit)
        mask = self.mask if self.gate is None else self.gate()
        mask = mask.to(x.dtype)
        # Out of place: an in-place ReLU would hand a rectified x to the polynomial.
        return mask * self.original(x) + (1.0 - mask) * self.polynomial(x)

    def bound(self, limit: float) -> None:
        """Clip what arrives while training, from now on."""
        self.limit.fill_(limit)
        self.bounded = True

    def polynomial(self, x: torch.Tensor) -> torch.Tensor:
        """g(x), channel by channel."""
        if self.kind == "identity":
            return x
        return horner(self.shaped(self.coef), x)

    def shaped(self, values: torch.Tensor) -> torch.Tensor:
        """(n, channels) so that each of the n broadcasts to the node's shape."""
        if channel_axis(self.node) is None:
            return values
        return values.view(len(values), -1, *(1,) * (len(self.node.shape) - 2))

    def comparisons(self, size: int) -> int:
        return int(self.mask.sum())

    def write(self, x: Node, origin: str) -> Node:
        kept: NDArray[np.bool_] = np.asarray(self.mask.cpu().numpy() > 0.5)
        if kept.all():
            return same(x, "Relu", origin)
        if not kept.any():
            return self._poly(x, numbers(self.coef), origin)
        axis = channel_axis(self.node)
        if axis is not None:
            per_channel = np.moveaxis(kept, axis, 0).reshape(kept.shape[axis], -1)
            if (per_channel.all(1) | ~per_channel.any(1)).all():
                coef = numbers(self.coef)
                return self._split(x, np.asarray(per_channel.all(1)), axis, coef, origin)
        flat = reshape(x, (1, x.size), f"{origin}/flat")
        joined = self._split(flat, kept.reshape(-1), 1, self._per_element(), origin)
        return reshape(joined, x.shape, f"{origin}/shape")

    def _per_element(self) -> FloatArray:
        axis = channel_axis(self.node)
        coef = numbers(self.coef)
        if axis is None:
            return np.broadcast_to(coef, (len(coef), self.node.size))
        wide = coef.reshape(len(coef), *(-1 if i == axis else 1 for i in range(len(self.node.shape))))
        return np.broadcast_to(wide, (len(coef), *self.node.shape)).reshape(len(coef), -1)

    def _split(self, x: Node, kept: NDArray[np.bool_], axis: int, coef: FloatArray, origin: str) -> Node:
        """ReLU on the kept slices, the polynomial on the others, every slice back in its place."""
        stay, go = np.flatnonzero(kept), np.flatnonzero(~kept)
        compared = same(gather(x, stay, axis, f"{origin}/keep"), "Relu", origin)
        smooth = self._poly(gather(x, go, axis, f"{origin}/rest"), coef[:, go], f"{origin}/poly")
        attrs = {"axis": axis, "parts": (None, None)}
        joined = Node("Concat", (compared, smooth), x.shape, attrs, f"{origin}/join")
        order: IntArray = np.argsort(np.concatenate([stay, go]))
        return gather(joined, order, axis, f"{origin}/order")

    def _poly(self, x: Node, coef: FloatArray, origin: str) -> Node:
        if self.kind == "identity":
            return x
        coef = coef[:, 0] if (coef == coef[:, :1]).all() else coef
        low, high = float(self.low), float(self.high)
        domain = np.array([low, high]) if coef.ndim == 1 else np.repeat([[low], [high]], coef.shape[1], axis=1)
        return same(x, "Poly", origin, basis="power", coef=coef, domain=domain)
