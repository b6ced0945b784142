"""Degree-2 activations for networks that are trained with them, written in standard ONNX operators."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Quadratic", "Square"]


class Square(nn.Module):
    """x * x, element by element."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


class Quadratic(nn.Module):
    """a x² + b x + c with one trained (a, b, c) per channel, the channel being axis 1.

    Starts at the degree-2 Hermite expansion of ReLU under a standard normal density,
    x² / (2 sqrt(2 pi)) + x / 2 + 1 / (2 sqrt(2 pi)), so it expects a BatchNorm before it.

    Args:
        channels: size of axis 1.
        axes: number of axes after the channel: 2 for images, 0 for vectors.
    """

    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        shape = (channels,) + (1,) * axes
        start = 0.5 / (2.0 * torch.pi) ** 0.5
        self.a = nn.Parameter(torch.full(shape, start))
        self.b = nn.Parameter(torch.full(shape, 0.5))
        self.c = nn.Parameter(torch.full(shape, start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a * (x * x) + self.b * x + self.c
