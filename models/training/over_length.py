"""Weights of attention that divide by nothing but the length, as forms to train.

ReLU (Wortsman et al., arXiv 2309.08586), sigmoid with the logarithm of the length taken off (Ramapuram et al.,
arXiv 2409.04431), squares, and the bare scores, which is linear attention.
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

import torch

from pi_compiler.ir.graph import Node
from pi_compiler.models.training.attention import Form
from pi_compiler.models.training.operations import tensor
from pi_compiler.ops import forms
from pi_compiler.ops.op import integer, optional_array

__all__ = ["OVER_LENGTH", "OverLength"]

Function: TypeAlias = Literal["relu", "sigmoid", "square", "linear"]
OVER_LENGTH: Final[tuple[Function, ...]] = ("relu", "sigmoid", "square", "linear")


class OverLength(Form):
    """See ``ops.forms.over_length``; hidden places are zero.

    Args:
        node: the softmax.
        function: of each score.
    """

    def __init__(self, node: Node, function: Function) -> None:
        super().__init__()
        self.axis, self.function = integer(node, "axis") + 1, function
        mask = optional_array(node, "mask")
        self.register_buffer("mask", None if mask is None else tensor(mask), persistent=False)

    def forward(self, x: torch.Tensor, *places: torch.Tensor) -> torch.Tensor:
        length = x.shape[self.axis]
        match self.function:
            case "relu":
                y = x.relu() / length
            case "sigmoid":
                y = (x - math.log(length)).sigmoid()
            case "square":
                y = x.square() / length
            case "linear":
                y = x / length
        y = y if self.mask is None else y * self.mask
        for shown in places:
            # (n, ...) with fewer axes than the weights: the new ones come behind the samples.
            y = y * shown.reshape(len(shown), *(1,) * (y.dim() - shown.dim()), *shown.shape[1:])
        return y

    def write(self, x: Node, node: Node) -> Node:
        return forms.over_length(x, node, self.function)
