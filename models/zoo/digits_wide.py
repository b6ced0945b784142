"""A network for 8x8 digits with 1,536 ReLUs, for comparing budget methods."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

__all__ = ["build"]


def build() -> nn.Sequential:
    """Images (n, 1, 8, 8) in [0, 1] -> logits (n, 10); 16·64 + 32·16 ReLUs."""
    return nn.Sequential(
        OrderedDict(
            [
                ("conv1", nn.Conv2d(1, 16, 3, padding=1)),
                ("bn1", nn.BatchNorm2d(16)),
                ("relu1", nn.ReLU()),
                ("conv2", nn.Conv2d(16, 32, 3, stride=2, padding=1)),
                ("bn2", nn.BatchNorm2d(32)),
                ("relu2", nn.ReLU()),
                ("pool", nn.AvgPool2d(2)),
                ("flatten", nn.Flatten()),
                ("fc", nn.Linear(128, 10)),
            ]
        )
    )
