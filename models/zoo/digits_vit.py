"""A small vision transformer for scikit-learn's 8x8 digits: 16 patches of 2x2, one block, two heads.

Everything in it is what such networks usually have: LayerNorm before each part of the block, softmax over scaled
products, GELU, the mean over tokens. ``pi_compiler.models.training.transformers`` gives it forms that run encrypted.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Attention", "Block", "VisionTransformer", "build"]


class Attention(nn.Module):
    """Softmax attention of tokens (n, tokens, width) among themselves.

    Args:
        width: of a token.
        heads: they share the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = self.softmax(q @ k.transpose(-1, -2) * self.size**-0.5)
        y: torch.Tensor = self.output((weights @ v).transpose(1, 2).flatten(2))
        return y


class Block(nn.Module):
    """Attention and a network of two layers, each on normalized tokens and added to them."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1, self.gelu, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        y: torch.Tensor = x + self.fc2(self.gelu(self.fc1(self.norm2(x))))
        return y


class VisionTransformer(nn.Module):
    """Images (n, 1, side, side) in [0, 1] -> logits (n, classes).

    Args:
        side: of the image.
        patch: side of a patch.
        width: of a token.
        heads: of attention.
        hidden: of the network in a block.
        blocks: how many.
        classes: of logits.
    """

    def __init__(
        self,
        side: int = 8,
        patch: int = 2,
        width: int = 32,
        heads: int = 2,
        hidden: int = 64,
        blocks: int = 1,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn((side // patch) ** 2, width))
        self.blocks = nn.ModuleList([Block(width, heads, hidden) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        y: torch.Tensor = self.head(self.norm(x).mean(1))
        return y


def build() -> VisionTransformer:
    """The network of the zoo, untrained."""
    return VisionTransformer()
