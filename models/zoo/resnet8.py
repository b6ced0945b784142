"""A small ResNet for 28x28 gray images: one block per stage of ResNet-20 (He et al., CVPR 2016, section 4.2)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from pi_compiler.models.zoo.resnet20 import Block

__all__ = ["ResNet8", "build"]


class ResNet8(nn.Module):
    """Images (n, 1, 28, 28) in [0, 1] -> logits (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.stages = nn.Sequential(
            OrderedDict([("1", Block(16, 16, 1)), ("2", Block(16, 32, 2)), ("3", Block(32, 64, 2))])
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stages(self.relu(self.bn1(self.conv1(x))))
        logits: torch.Tensor = self.linear(self.flatten(self.pool(y)))
        return logits


def build() -> ResNet8:
    """Images (n, 1, 28, 28) in [0, 1] -> logits (n, 10)."""
    return ResNet8()
