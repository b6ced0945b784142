"""A small decoder of the GPT kind: the next letter after 16 letters, two blocks, three heads, causal masks.

It is exported with the choice of the most likely letter inside, so that under MPC nobody learns the others' scores.
"""

from __future__ import annotations

import torch
from torch import nn

from pi_compiler.models.letters import ALPHABET, WINDOW
from pi_compiler.models.zoo.digits_vit import Attention, Block

__all__ = ["CausalAttention", "Decoder", "NextLetter", "build"]

_HIDDEN = -1e9


class CausalAttention(Attention):
    """Attention of tokens (n, tokens, width) to themselves and to those before them.

    Args:
        width: of a token.
        heads: they share the width.
        tokens: how many.
    """

    hidden: torch.Tensor

    def __init__(self, width: int, heads: int, tokens: int) -> None:
        super().__init__(width, heads)
        self.register_buffer("hidden", torch.full((tokens, tokens), _HIDDEN).triu(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = self.softmax(q @ k.transpose(-1, -2) * self.size**-0.5 + self.hidden)
        y: torch.Tensor = self.output((weights @ v).transpose(1, 2).flatten(2))
        return y


class Decoder(nn.Module):
    """Letters (n, tokens) as numbers -> scores (n, tokens, letters) of the letter after each of them.

    Args:
        letters: in the alphabet.
        tokens: in a window.
        width: of a token.
        heads: of attention.
        blocks: how many.
    """

    def __init__(
        self, letters: int = len(ALPHABET), tokens: int = WINDOW, width: int = 48, heads: int = 3, blocks: int = 2
    ) -> None:
        super().__init__()
        self.letters = nn.Embedding(letters, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList([Block(width, heads, 4 * width) for _ in range(blocks)])
        for block in self.blocks:
            block.attention = CausalAttention(width, heads, tokens)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.letters(x) + self.position
        for block in self.blocks:
            x = block(x)
        y: torch.Tensor = self.head(self.norm(x))
        return y


class NextLetter(nn.Module):
    """Letters (n, tokens) -> the number (n, 1) of the letter that most likely follows the last one.

    Args:
        decoder: trained.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # What reads the choice keeps it inside the network; a choice at the very end would be made in clear.
        scores: torch.Tensor = self.decoder(x)
        return scores[:, -1].argmax(-1).unsqueeze(-1)


def build() -> Decoder:
    """The network, untrained."""
    return Decoder()
