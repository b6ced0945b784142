"""LeNet-5 (LeCun et al., 1998, section II.B) with average pooling and trained degree-2 activations.

Every activation is a x² + b x + c per channel after a BatchNorm, which exporting folds away.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from pi_compiler.models.zoo.activations import Quadratic

__all__ = ["build"]


def build() -> nn.Sequential:
    """Images (n, 1, 28, 28) in [0, 1] -> logits (n, 10)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 5, padding=2),
            norm1=nn.BatchNorm2d(6),
            quadratic1=Quadratic(6, axes=2),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            norm2=nn.BatchNorm2d(16),
            quadratic2=Quadratic(16, axes=2),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(400, 120),
            norm3=nn.BatchNorm1d(120),
            quadratic3=Quadratic(120, axes=0),
            fc2=nn.Linear(120, 84),
            norm4=nn.BatchNorm1d(84),
            quadratic4=Quadratic(84, axes=0),
            fc3=nn.Linear(84, 10),
        )
    )
