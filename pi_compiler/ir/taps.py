"""Inputs that the client packs replicated and pre-rotated, which is free for it.

A first layer with C output channels over P positions reads, at each position, a window of taps: a
convolution's window, or for a dense layer (P = 1) the whole input. The client places tap q of
position i at slot ((q * lanes) + lane) * block + i, every lane pre-rotated by some more taps. Lane
s of S handles its share of the diagonals, so S times fewer rotations are needed; a lane sum of
log2(lanes) rotations gathers them. Several ciphertexts extend the lanes (further pre-rotations) or
hold further taps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pi_compiler.ir.graph import FloatArray, IntArray

if TYPE_CHECKING:
    from pi_compiler.ir.layout import Layout


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Every nonzero of one matrix, assigned to a diagonal and a slot.

    ``result[slot] += value * source[slot + diagonal]`` before the folds.

    Attributes:
        out_ct: output ciphertext, per nonzero, or one for all.
        in_ct: input ciphertext, per nonzero, or one for all.
        diagonal: rotation of the input.
        slot: where the product lands.
        value: the matrix entry.
        period: period of the diagonals.
    """

    out_ct: IntArray
    in_ct: IntArray
    diagonal: IntArray
    slot: IntArray
    value: FloatArray
    period: int


@dataclass(frozen=True, eq=False)
class Taps:
    """Geometry of a tap layout.

    Attributes:
        windows: (taps, positions) input elements that a position reads, -1 where it reads fewer.
        rows: output channels, rounded up to a power of two.
        block: slots per tap: positions rounded up to a power of two.
        lanes: pre-rotated copies inside a ciphertext.
        copies: ciphertexts with further pre-rotations.
        width: taps per ciphertext, a power of two; more taps go to further ciphertexts.
    """

    windows: IntArray
    rows: int
    block: int
    lanes: int
    copies: int
    width: int

    @property
    def groups(self) -> int:
        """Ciphertexts that it takes to hold every tap once."""
        return -(-len(self.windows) // self.width)

    @property
    def stride(self) -> int:
        """Slots from one tap, or one output channel, to the next."""
        return self.lanes * self.block

    @property
    def share(self) -> int:
        """Diagonals per lane."""
        return min(self.rows, self.width) // (self.lanes * self.copies)

    @property
    def lane_folds(self) -> tuple[int, ...]:
        """Rotations that sum the lanes into lane 0."""
        return tuple(self.block << i for i in range(self.lanes.bit_length() - 1))

    def index(self) -> IntArray:
        """(ciphertexts, period) element numbers of the input layout."""
        taps, positions = self.windows.shape
        padded = np.full((self.groups * self.width, self.block), -1, np.int64)
        padded[:taps, :positions] = self.windows
        q = np.arange(self.width)
        out = np.empty((self.groups, self.copies, self.width, self.lanes, self.block), np.int64)
        for copy in range(self.copies):
            for lane in range(self.lanes):
                turned = (q + self.share * (copy * self.lanes + lane)) % self.width
                for group in range(self.groups):
                    out[group, copy, :, lane] = padded[group * self.width + turned]
        return out.reshape(self.groups * self.copies, -1)

    @cached_property
    def _lookup(self) -> tuple[IntArray, IntArray]:
        taps, positions = self.windows.shape
        tap, position = np.indices((taps, positions))
        used = self.windows >= 0
        code = position[used] * (int(self.windows.max()) + 1) + self.windows[used]
        order = np.argsort(code)
        return code[order], tap[used][order]

    def assign(self, rows: IntArray, columns: IntArray, values: FloatArray, result: Layout) -> Entries:
        """Assign a first layer's nonzeros; ``result`` is the layout from ``result_index``."""
        positions = self.windows.shape[1]
        channel, position = rows // positions, rows % positions
        codes, taps = self._lookup
        tap = taps[np.searchsorted(codes, position * (int(self.windows.max()) + 1) + columns)]
        group, q = tap // self.width, tap % self.width
        modulus = min(self.rows, self.width)
        away = (q - channel) % modulus
        lane, step = away // self.share, away % self.share
        at = (q - away) % self.width if self.rows <= self.width else channel
        slot = (at * self.lanes + lane % self.lanes) * self.block + position
        return Entries(
            np.zeros(1, np.int64),
            group * self.copies + lane // self.lanes,
            step * self.stride,
            slot,
            values,
            max(self.rows, self.width) * self.stride,
        )

    def result_slots(self, channels: int) -> IntArray:
        """Slot of every output element: channel c, position i at c * stride + i."""
        positions = self.windows.shape[1]
        return (np.arange(channels)[:, None] * self.stride + np.arange(positions)).ravel()


def windows_of(rows: IntArray, columns: IntArray, positions: int) -> IntArray:
    """(taps, positions): the distinct columns that the rows of each position read."""
    pairs = np.unique(np.stack([rows % positions, columns], 1), axis=0)
    counts = np.bincount(pairs[:, 0], minlength=positions)
    start = np.concatenate([[0], np.cumsum(counts)[:-1]])
    windows = np.full((int(counts.max()), positions), -1, np.int64)
    windows[np.arange(len(pairs)) - start[pairs[:, 0]], pairs[:, 0]] = pairs[:, 1]
    return windows
