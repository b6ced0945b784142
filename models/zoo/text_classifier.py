"""A small transformer that tells whether a sentence is positive: 32 words, one block, two heads.

Words are looked up, padding is hidden from attention and left out of the mean over words. Both are lookups as well:
columns of zeros and ones beside the words' vectors, so that the network has nothing but the words' numbers to read.
"""

from __future__ import annotations

import torch
from torch import nn

from pi_compiler.models.sentences import LENGTH, PADDING, WORDS

__all__ = ["TextClassifier", "build"]

_FAR = -30.0
"""Added to the scores of padding."""


class Attention(nn.Module):
    """Softmax attention of words (n, words, width) among themselves.

    Args:
        width: of a word.
        heads: how many.
        size: of a head; fewer than ``width / heads`` numbers make products of matrices smaller.
    """

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.query, self.key, self.value = (nn.Linear(width, heads * size) for _ in range(3))
        self.output = nn.Linear(heads * size, width)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """``hidden`` (n, words, 1) is added to the scores of each word."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) * self.size**-0.5
        weights = self.softmax(scores + hidden.transpose(1, 2).unsqueeze(1))
        y: torch.Tensor = self.output((weights @ v).transpose(1, 2).flatten(2))
        return y


class Block(nn.Module):
    """Attention and a network of two layers, each on normalized words and added to them."""

    def __init__(self, width: int, heads: int, size: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, size)
        self.norm2 = nn.LayerNorm(width)
        self.fc1, self.gelu, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), hidden)
        y: torch.Tensor = x + self.fc2(self.gelu(self.fc1(self.norm2(x))))
        return y


class TextClassifier(nn.Module):
    """Numbers of words (n, length), behind them padding -> logits (n, classes).

    Args:
        words: rows of the table.
        length: words of a sentence.
        width: of a word.
        heads: of attention.
        size: of a head.
        hidden: of the network in a block.
        blocks: how many.
        classes: of logits.
        dropout: of words' vectors while training.
    """

    present: torch.Tensor
    hidden: torch.Tensor

    def __init__(
        self,
        words: int = WORDS,
        length: int = LENGTH,
        width: int = 32,
        heads: int = 2,
        size: int = 8,
        hidden: int = 64,
        blocks: int = 1,
        classes: int = 2,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width)
        nn.init.normal_(self.table.weight, std=0.3)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        present = torch.ones(words, 1)
        present[PADDING] = 0.0
        self.register_buffer("present", present)
        self.register_buffer("hidden", _FAR * (1.0 - present))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([Block(width, heads, size, hidden) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.long()
        present, hidden = (nn.functional.embedding(x, table) for table in (self.present, self.hidden))
        x = self.dropout(self.table(x) + self.position)
        for block in self.blocks:
            x = block(x, hidden)
        pooled = (present.transpose(1, 2) @ self.norm(x)).squeeze(1) / present.sum(1)
        y: torch.Tensor = self.head(pooled)
        return y


def build() -> TextClassifier:
    """The network of the zoo, untrained."""
    return TextClassifier()
