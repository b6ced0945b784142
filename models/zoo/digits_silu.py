"""The digits network with SiLU: a smooth activation to approximate, trained without a thought of polynomials."""

from __future__ import annotations

from torch import nn

from pi_compiler.models.zoo.digits_cnn import build_with

__all__ = ["build"]


def build() -> nn.Sequential:
    """Images (n, 1, 8, 8) in [0, 1] -> logits (n, 10)."""
    return build_with(nn.SiLU)
