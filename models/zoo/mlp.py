"""784-128-128-10 perceptron with squares: the MNIST network of SecureML (Mohassel and Zhang, 2017, section 6).

BatchNorm keeps the squares tame while training; exporting folds it into the matrices.
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
            flatten=nn.Flatten(),
            fc1=nn.Linear(784, 128),
            norm1=nn.BatchNorm1d(128),
            square1=Square(),
            fc2=nn.Linear(128, 128),
            norm2=nn.BatchNorm1d(128),
            square2=Square(),
            fc3=nn.Linear(128, 10),
        )
    )
