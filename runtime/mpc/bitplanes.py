"""Bits of ring elements as planes: plane b holds bit b of every element, packed into 64-bit words."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pi_compiler.ir.two_party import RING_BITS, words


def to_planes(x: torch.Tensor) -> torch.Tensor:
    """Planes (64, words) of a flat tensor of ring elements; bit i of word w belongs to element 64 w + i."""
    count = words(x.numel())
    padded = np.zeros(count * RING_BITS, np.uint64)
    padded[: x.numel()] = x.numpy().reshape(-1).view(np.uint64)
    return torch.from_numpy(_transposed(padded.reshape(count, RING_BITS)).T.copy().view(np.int64))


def _transposed(blocks: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each block of 64 words as a 64 x 64 matrix of bits, transposed: halves are swapped, then quarters, ..."""
    size, mask = RING_BITS // 2, 0xFFFFFFFF
    while size:
        pairs = blocks.reshape(len(blocks), RING_BITS // (2 * size), 2, size)
        low, high = pairs[:, :, 0], pairs[:, :, 1]
        moved = ((low >> np.uint64(size)) ^ high) & np.uint64(mask)
        high ^= moved
        low ^= moved << np.uint64(size)
        size //= 2
        mask ^= (mask << size) & 0xFFFFFFFFFFFFFFFF
    return blocks


def unpack(packed: torch.Tensor, size: int) -> torch.Tensor:
    """Bits of packed words as a flat tensor of zeros and ones, int64."""
    bits = np.unpackbits(packed.numpy().view(np.uint8), bitorder="little")[:size]
    return torch.from_numpy(bits.astype(np.int64))


def pack(bits: torch.Tensor) -> torch.Tensor:
    """Words of a flat tensor of zeros and ones."""
    padded = np.zeros(words(bits.numel()) * RING_BITS, np.uint8)
    padded[: bits.numel()] = bits.numpy()
    return torch.from_numpy(np.packbits(padded, bitorder="little").view(np.int64))
