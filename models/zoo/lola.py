"""LoLa-MNIST: the low-latency network of Brutzkus, Elisha and Gilad-Bachrach (ICML 2019, section 5).

One 5x5 convolution of stride 2 to five 13x13 maps, a square, a dense layer to 100, a square, a dense
layer to 10. BatchNorm keeps the squares tame while training; exporting folds it away.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from pi_compiler.models.zoo.activations import Square

__all__ = ["build"]


def build() -> nn.Sequential:
    """Images (n, 1, 28, 28) in [0, 1] -> logits (n, 10)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 5, 5, stride=2, padding=1),
            norm1=nn.BatchNorm2d(5),
            square1=Square(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(845, 100),
            norm2=nn.BatchNorm1d(100),
            square2=Square(),
            fc2=nn.Linear(100, 10),
        )
    )
