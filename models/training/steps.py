"""The nodes of a graph as torch modules: layers with weights, activations, and everything between them.

An activation is a place where a budget method may put something else. What a step has become is
written back as a node; normalization behind a layer is folded into it, so that nothing in the
result depends on the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pi_compiler.errors import InternalError, ModelError, UnsupportedOperator
from pi_compiler.ir.graph import Attr, FloatArray, Node
from pi_compiler.models.training.operations import COMPARING, FUNCTIONS, MOVEMENTS, OPERATIONS, tensor
from pi_compiler.ops import OPS
from pi_compiler.ops.elementwise import poly_operands
from pi_compiler.ops.op import array, integer, ints, optional_array

__all__ = ["Activation", "Layer", "Norm", "Polynomial", "Replacement", "Step", "horner", "numbers", "step_of"]


class Step(nn.Module):
    """One node of the graph: operands (B, *shape) in, result (B, *shape) out, differentiable."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node

    def write(self, inputs: tuple[Node, ...]) -> Node:
        """The node with its weights as they are now, on other operands."""
        return replace(self.node, inputs=inputs, attrs={**self.node.attrs, **self.attrs()})

    def attrs(self) -> Mapping[str, Attr]:
        """The attributes that training changes."""
        return {}


class Replacement(nn.Module):
    """What stands in an activation's place: x (B, *shape) in, the same shape out."""

    def write(self, x: Node, origin: str) -> Node:
        """What it computes in evaluation mode, as nodes on x."""
        raise InternalError(f"{type(self).__name__} cannot be written")

    def comparisons(self, size: int) -> int:
        """How many of the layer's ``size`` elements still need a comparison."""
        return 0


class Activation(Step):
    """A nonlinearity of one variable.

    Attributes:
        function: what is in its place; None is the original.
    """

    function: Replacement | None

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.original = FUNCTIONS[node.op](node)
        self.function = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.original(x) if self.function is None else self.function(x)
        return y

    def write(self, inputs: tuple[Node, ...]) -> Node:
        if self.function is None:
            return replace(self.node, inputs=inputs)
        return self.function.write(inputs[0], self.node.origin)

    @property
    def comparisons(self) -> int:
        """Elements whose sign the layer needs."""
        if self.function is not None:
            return self.function.comparisons(self.node.size)
        return self.node.size if self.node.op in COMPARING else 0


class Norm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over axis 1 of a tensor with any number of axes."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any number will do."""


class Layer(Step):
    """Conv, ConvTranspose, Gemm or MatMul: a weight, a bias, and perhaps normalization behind it.

    Attributes:
        norm: BatchNorm over the result's channels, None where there is none.
    """

    norm: Norm | None

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.weight = nn.Parameter(tensor(array(node, "weight")))
        bias = optional_array(node, "bias")
        self.bias = None if bias is None else nn.Parameter(tensor(bias))
        self.norm = None

    @property
    def channels(self) -> int:
        """Length of the axis that a bias runs along."""
        return self.node.shape[self.channel_axis]

    @property
    def channel_axis(self) -> int:
        """That axis, in the node's shape."""
        return 1 if self.node.op in ("Conv", "ConvTranspose") else len(self.node.shape) - 1

    @property
    def normalizable(self) -> bool:
        """Whether a BatchNorm can be folded into it."""
        return self.node.op in ("Conv", "ConvTranspose", "Gemm")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalization works on (samples, channels, ...), the layout that convolutions leave."""
        if self.node.op == "MatMul":
            ones = (1,) * (len(self.node.shape) + 1 - x.dim())
            x = x.reshape(len(x), *ones, *x.shape[1:])
            return self.weight @ x if integer(self.node, "left") else x @ self.weight
        if self.node.op == "Gemm":
            y = x.flatten(0, -2) @ self.weight.to(x.dtype)
            y = y if self.bias is None else y + self.bias
        else:
            y = self.convolve(x.flatten(0, 1))
        y = y if self.norm is None else self.norm(y)
        return y.reshape(len(x), *self.node.shape)

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """Conv and ConvTranspose on (samples, channels, *space)."""
        node, rank = self.node, x.dim() - 2
        strides, dilations, pads = ints(node, "strides"), ints(node, "dilations"), ints(node, "pads")
        group = integer(node, "group")
        before, after = pads[:rank], pads[rank:]
        if node.op == "Conv":
            need = [
                max(e, (o - 1) * s + (k - 1) * d + 1 - n - b)
                for b, e, o, s, k, d, n in zip(
                    before, after, node.shape[2:], strides, self.weight.shape[2:], dilations, x.shape[2:], strict=True
                )
            ]
            if before != tuple(need):
                ends = [p for pair in reversed(list(zip(before, need, strict=True))) for p in pair]
                x, before = functional.pad(x, ends), (0,) * rank
            conv = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
            return conv(x, self.weight, self.bias, strides, before, dilations, group)
        # The full result, from which the pads are cut off; positions that no tap reaches are zero.
        transposed = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
        full = transposed(x, self.weight, None, strides, 0, 0, group, dilations)
        for axis, (b, n) in enumerate(zip(before, node.shape[2:], strict=True), start=2):
            short = b + n - full.shape[axis]
            if short > 0:
                full = functional.pad(full, [*(0, 0) * (full.dim() - 1 - axis), 0, short])
            full = full.narrow(axis, b, n)
        return full if self.bias is None else full + self.bias.view(-1, *(1,) * rank)

    def attrs(self) -> Mapping[str, Attr]:
        weight, bias = numbers(self.weight), None if self.bias is None else numbers(self.bias)
        if self.norm is not None:
            scale, shift = _folded(self.norm)
            weight = weight * scale.reshape(self._along(weight))
            bias = shift if bias is None else bias * scale + shift
        return {"weight": weight} | ({} if bias is None else {"bias": bias})

    def fold(self) -> None:
        """Normalization becomes part of weight and bias, for good."""
        if self.norm is None:
            return
        found = {name: tensor(np.asarray(values)) for name, values in self.attrs().items()}
        self.weight = nn.Parameter(found["weight"])
        self.bias = nn.Parameter(found["bias"])
        self.norm = None

    def _along(self, weight: FloatArray) -> tuple[int, ...]:
        if self.node.op == "Gemm":
            return (1, -1)
        if self.node.op == "Conv":
            return (-1, *(1,) * (weight.ndim - 1))
        if integer(self.node, "group") != 1:
            raise ModelError(f"normalization behind the grouped ConvTranspose '{self.node.origin}' cannot be folded")
        return (1, -1, *(1,) * (weight.ndim - 2))


class _Affine(Step):
    """scale * x + shift; both are trained, kept flat so that no weight decay applies."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.shapes = array(node, "scale").shape, array(node, "shift").shape
        self.scale = nn.Parameter(tensor(array(node, "scale").reshape(-1)))
        self.shift = nn.Parameter(tensor(array(node, "shift").reshape(-1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale.view(self.shapes[0]) + self.shift.view(self.shapes[1])

    def attrs(self) -> Mapping[str, Attr]:
        return {
            name: numbers(values).reshape(shape)
            for name, values, shape in zip(("scale", "shift"), (self.scale, self.shift), self.shapes, strict=True)
        }


class Lookup(Step):
    """Rows of a table by number. A table of two values tells what is padding and is not trained."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        table = array(node, "table")
        self.table = nn.Parameter(tensor(table), requires_grad=len(np.unique(table)) > 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.embedding(x.round().long(), self.table)

    def attrs(self) -> Mapping[str, Attr]:
        return {"table": numbers(self.table)}


class Polynomial(Step):
    """A polynomial activation that the model came with; its coefficients are trained."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        coef, low, high = poly_operands(node)
        self.shape = coef.shape
        self.coef = nn.Parameter(tensor(coef.reshape(-1)))
        self.low, self.high = _buffer(self, "low", low), _buffer(self, "high", high)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        coef = self.coef.view(self.shape)
        if self.node.attrs["basis"] == "power":
            return horner(coef, x)
        u = (2.0 * x - (self.low + self.high)) / (self.high - self.low)
        after, y = torch.zeros_like(u), coef[-1].expand_as(u)
        for c in reversed(coef[1:-1]):
            after, y = y, 2.0 * u * y - after + c
        return u * y - after + coef[0] if len(coef) > 1 else y

    def attrs(self) -> Mapping[str, Attr]:
        return {"coef": numbers(self.coef).reshape(self.shape).reshape(array(self.node, "coef").shape)}


class _Operation(Step):
    """A node without weights."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.operation = OPERATIONS[node.op](node)

    def forward(self, *operands: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.operation(*operands)
        return y


class _Movement(Step):
    """Data movement of any kind: one gather, from the operator's own meaning applied to element numbers."""

    index: torch.Tensor
    fill: torch.Tensor

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        fill = OPS[node.op].apply(node, [np.zeros((1, *i.shape)) for i in node.inputs]).reshape(-1)
        index, start = np.full(node.size, -1), 0
        for place, operand in enumerate(node.inputs):
            operands = [np.zeros((1, *i.shape)) for i in node.inputs]
            operands[place] = np.arange(1.0, operand.size + 1).reshape(1, *operand.shape)
            moved = np.rint(OPS[node.op].apply(node, operands).reshape(-1) - fill).astype(np.int64)
            index = np.where(moved > 0, moved - 1 + start, index)
            start += operand.size
        # Constant elements come from one slot behind all operands each.
        constant = np.flatnonzero(index < 0)
        index[constant] = start + np.arange(len(constant))
        _buffer(self, "fill", fill[constant])
        self.register_buffer("index", torch.from_numpy(index), persistent=False)

    def forward(self, *operands: torch.Tensor) -> torch.Tensor:
        parts = [x.reshape(len(x), -1) for x in operands]
        if len(self.fill):
            parts.append(self.fill.to(parts[0].dtype).expand(len(parts[0]), -1))
        flat = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        return flat.index_select(1, self.index).view(len(flat), *self.node.shape)


def horner(coef: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """c0 + c1 x + c2 x² + ...; coef (degree+1, ...) broadcasts to x."""
    y = coef[-1].expand_as(x) if len(coef) == 1 else coef[-1] * x
    for c in reversed(coef[1:-1]):
        y = (y + c) * x
    return y + coef[0] if len(coef) > 1 else y


def numbers(values: torch.Tensor) -> FloatArray:
    """A tensor as a float64 array."""
    return values.detach().cpu().double().numpy().copy()


def _buffer(module: nn.Module, name: str, values: FloatArray) -> torch.Tensor:
    module.register_buffer(name, tensor(values), persistent=False)
    found: torch.Tensor = getattr(module, name)
    return found


def _folded(norm: Norm) -> tuple[FloatArray, FloatArray]:
    """Scale and shift that the normalization is in evaluation mode."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise InternalError("a BatchNorm without running statistics cannot be folded")
    scale = numbers(norm.weight) / np.sqrt(numbers(variance) + norm.eps)
    return scale, numbers(norm.bias) - numbers(mean) * scale


def step_of(node: Node) -> Step:
    """The module that a node becomes.

    Raises:
        UnsupportedOperator: it is one of those that only run under MPC.
    """
    if node.op == "Input":
        return Step(node)
    if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return Layer(node)
    if node.op == "Affine":
        return _Affine(node)
    if node.op == "Poly":
        return Polynomial(node)
    if node.op == "Embedding":
        return Lookup(node)
    if node.op in FUNCTIONS:
        return Activation(node)
    if node.op in OPERATIONS:
        return _Operation(node)
    if node.op in MOVEMENTS:
        return _Movement(node)
    raise UnsupportedOperator(
        f"{node.op} '{node.origin}' cannot be trained", hint="reduce the model before it has such layers"
    )
