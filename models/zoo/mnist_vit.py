"""The vision transformer of ``digits_vit`` for MNIST: 16 patches of 7x7, one block, two heads."""

from __future__ import annotations

from pi_compiler.models.zoo.digits_vit import VisionTransformer

__all__ = ["build"]


def build() -> VisionTransformer:
    """The network of the zoo, untrained."""
    return VisionTransformer(side=28, patch=7)
