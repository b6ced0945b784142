"""What the graph's operators without weights are in torch: functions of one variable, sums, pooling, reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from pi_compiler.ir.graph import FloatArray, Node
from pi_compiler.ops.op import array, integer, ints, number, optional_array

__all__ = ["COMPARING", "FUNCTIONS", "MOVEMENTS", "OPERATIONS", "tensor"]


def tensor(values: FloatArray) -> torch.Tensor:
    """An array as a float32 tensor of its own."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32).copy())


def _reduction(reduce: Callable[..., torch.Tensor]) -> Callable[[Node], Callable[..., torch.Tensor]]:
    def make(node: Node) -> Callable[..., torch.Tensor]:
        axes, keep = [a + 1 for a in ints(node, "axes")], bool(integer(node, "keepdims"))
        return lambda x: reduce(x, axes, keepdim=keep)

    return make


def _pool(node: Node) -> Callable[..., torch.Tensor]:
    """Mean over windows; padding does not count."""
    x, rank = node.inputs[0], len(node.shape) - 2
    kernel, strides, pads = ints(node, "kernel"), ints(node, "strides"), ints(node, "pads")
    dilations = ints(node, "dilations")
    reach = [
        (o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(node.shape[2:], strides, kernel, dilations, strict=True)
    ]
    after = [max(0, r - b - n) for r, b, n in zip(reach, pads[:rank], x.shape[2:], strict=True)]
    ends = [p for pair in reversed(list(zip(pads[:rank], after, strict=True))) for p in pair]
    conv = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    ones = torch.ones(1, 1, *kernel)

    def sums(values: torch.Tensor) -> torch.Tensor:
        return conv(functional.pad(values, ends), ones.to(values.dtype), None, strides, 0, dilations)

    counts = sums(torch.ones(1, 1, *x.shape[2:]))

    def pool(values: torch.Tensor) -> torch.Tensor:
        planes = values.reshape(-1, 1, *x.shape[2:])
        return (sums(planes) / counts.to(values.dtype)).reshape(len(values), *node.shape)

    if rank == 2 and not any(pads) and set(dilations) == {1} and not any(after):
        return lambda v: functional.avg_pool2d(v.flatten(0, 1), kernel, strides).reshape(len(v), *node.shape)
    return pool


def _dot(node: Node) -> Callable[..., torch.Tensor]:
    rank = len(node.shape) + 1

    def product(*operands: torch.Tensor) -> torch.Tensor:
        a, b = (v.reshape(len(v), *(1,) * (rank - v.dim()), *v.shape[1:]) for v in operands)
        return a @ b

    return product


def _less(node: Node) -> Callable[..., torch.Tensor]:
    """1 where x < y, or x < bound with one operand: masks made of whole numbers."""
    bound = optional_array(node, "bound")
    given = () if bound is None else (tensor(bound),)
    return lambda x, *y: (x < (*y, *given)[0]).to(torch.float32)


def _pad_step(node: Node) -> Callable[..., torch.Tensor]:
    pads, rank = ints(node, "pads"), len(node.shape)
    ends = [p for pair in reversed(list(zip(pads[:rank], pads[rank:], strict=True))) for p in pair]
    value = number(node, "value")
    return lambda x: functional.pad(x, ends, value=value)


FUNCTIONS: Final[Mapping[str, Callable[[Node], Callable[[torch.Tensor], torch.Tensor]]]] = {
    "Relu": lambda n: torch.relu,
    "LeakyRelu": lambda n: lambda x: functional.leaky_relu(x, number(n, "alpha")),
    "PRelu": lambda n: (lambda slope: lambda x: torch.where(x < 0, slope * x, x))(tensor(array(n, "slope"))),
    "Clip": lambda n: lambda x: x.clamp(number(n, "min"), number(n, "max")),
    "Elu": lambda n: lambda x: functional.elu(x, number(n, "alpha")),
    "Selu": lambda n: lambda x: number(n, "gamma") * functional.elu(x, number(n, "alpha")),
    "Celu": lambda n: lambda x: functional.celu(x, number(n, "alpha")),
    "Gelu": lambda n: functional.gelu,
    "GeluTanh": lambda n: lambda x: functional.gelu(x, approximate="tanh"),
    "Sigmoid": lambda n: torch.sigmoid,
    "HardSigmoid": lambda n: lambda x: (number(n, "alpha") * x + number(n, "beta")).clamp(0.0, 1.0),
    "HardSwish": lambda n: lambda x: x * (number(n, "alpha") * x + number(n, "beta")).clamp(0.0, 1.0),
    "SiLU": lambda n: lambda x: x * torch.sigmoid(number(n, "rate") * x),
    "Mish": lambda n: functional.mish,
    "Tanh": lambda n: torch.tanh,
    "Softplus": lambda n: functional.softplus,
    "Softsign": lambda n: functional.softsign,
    "Erf": lambda n: torch.erf,
    "Exp": lambda n: torch.exp,
    "Sqrt": lambda n: torch.sqrt,
    "Reciprocal": lambda n: torch.reciprocal,
    "InverseSqrt": lambda n: torch.rsqrt,
    "Abs": lambda n: torch.abs,
    "Square": lambda n: torch.square,
    "Pow": lambda n: lambda x: x ** number(n, "exponent"),
}
"""Functions of one variable by operator."""

COMPARING: Final = frozenset({"Relu", "LeakyRelu", "PRelu", "Abs", "Clip"})
"""Operators that a protocol evaluates by comparing every element with a constant."""

OPERATIONS: Final[Mapping[str, Callable[[Node], Callable[..., torch.Tensor]]]] = {
    "Add": lambda n: lambda *xs: sum(xs[1:], xs[0]),
    "Sub": lambda n: torch.sub,
    "Mul": lambda n: torch.mul,
    "Dot": _dot,
    "IsLess": _less,
    "AveragePool": _pool,
    "ReduceSum": _reduction(torch.sum),
    "ReduceMean": _reduction(torch.mean),
    "Reshape": lambda n: lambda x: x.reshape(len(x), *n.shape),
    "Transpose": lambda n: lambda x: x.permute(0, *(a + 1 for a in ints(n, "perm"))),
    "Pad": _pad_step,
}
"""Operators without weights."""

MOVEMENTS: Final = frozenset({"Slice", "Gather", "Concat", "Expand"})
"""What becomes one gather."""
