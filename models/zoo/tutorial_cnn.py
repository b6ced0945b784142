"""The network of TenSEAL's encrypted-convolution tutorial, for side-by-side timing.

A 7x7 convolution of stride 3 to four 8x8 maps, a square, 256-64, a square, 64-10. BatchNorm keeps
the squares tame while training; exporting folds it away, so the exported layers are the tutorial's.
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
            conv1=nn.Conv2d(1, 4, 7, stride=3),
            norm1=nn.BatchNorm2d(4),
            square1=Square(),
            flatten=nn.Flatten(),
            fc1=nn.Linear(256, 64),
            norm2=nn.BatchNorm1d(64),
            square2=Square(),
            fc2=nn.Linear(64, 10),
        )
    )
