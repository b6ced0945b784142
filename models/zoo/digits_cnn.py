"""A small ReLU network for scikit-learn's 8x8 digits: what the demo compiles.

Its ReLUs become quadratics without retraining, so BatchNorm and a penalty on large pre-activations
keep their ranges small enough for that.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

__all__ = ["build", "build_with"]


def build() -> nn.Sequential:
    """Images (n, 1, 8, 8) in [0, 1] -> logits (n, 10)."""
    return build_with(nn.ReLU)


def build_with(activation: type[nn.Module]) -> nn.Sequential:
    """The same layers with another activation; its layers are called by its class in small letters."""
    name = activation.__name__.lower()
    return nn.Sequential(
        OrderedDict(
            [
                ("conv1", nn.Conv2d(1, 8, 3, padding=1)),
                ("norm1", nn.BatchNorm2d(8)),
                (f"{name}1", activation()),
                ("conv2", nn.Conv2d(8, 16, 3, stride=2, padding=1)),
                ("norm2", nn.BatchNorm2d(16)),
                (f"{name}2", activation()),
                ("pool", nn.AvgPool2d(2)),
                ("flatten", nn.Flatten()),
                ("fc", nn.Linear(64, 10)),
            ]
        )
    )
