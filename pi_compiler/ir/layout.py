"""Which tensor element sits in which slot.

A layout is an explicit index, not a formula: ``index[ciphertext, slot]`` is the flat element
number, or -1 for a slot that holds none. Slot vectors are often periodic, so only one period is
kept: slot s of ciphertext i holds element ``index[i, s % period]``. Named constructors build
the layouts that the planner chooses from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pi_compiler.errors import InternalError, ShapeMismatch
from pi_compiler.ir.graph import FloatArray, IntArray, Shape
from pi_compiler.ir.taps import Taps


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the elements of a tensor sit.

    Attributes:
        shape: the tensor's shape.
        slots: slots of a ciphertext.
        index: (ciphertexts, period) element numbers, -1 where there is none; the period divides
            ``slots``.
        zero: slots without an element certainly hold zero. If false they hold junk, which the
            next matrix must multiply by zero.
        name: what the report calls it, e.g. ``"gap 2"``.
        taps: set if the client packs replicated, pre-rotated copies.
        spread: an affine map fills only each element's first slot, then adds the vector to itself rotated
            back by each of these, which makes the copies.
    """

    shape: Shape
    slots: int
    index: IntArray
    zero: bool = True
    name: str = "plain"
    taps: Taps | None = None
    spread: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.index.ndim != 2 or self.slots % self.index.shape[1]:
            raise InternalError(f"layout index {self.index.shape} does not divide {self.slots} slots")

    @property
    def period(self) -> int:
        """Slots after which the content repeats."""
        return int(self.index.shape[1])

    @property
    def ciphertexts(self) -> int:
        """Number of ciphertexts."""
        return int(self.index.shape[0])

    @property
    def size(self) -> int:
        """Number of tensor elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @cached_property
    def key(self) -> int:
        """Equal for layouts that place every element alike."""
        return hash((self.shape, self.slots, self.zero, self.spread, self.index.shape, self.index.tobytes()))

    @cached_property
    def first(self) -> tuple[IntArray, IntArray]:
        """Per element the ciphertext and the slot of its first copy.

        Raises:
            InternalError: an element has no slot.
        """
        flat = self.index.ravel()
        where = np.full(self.size, -1, np.int64)
        order = np.flatnonzero(flat >= 0)[::-1]
        where[flat[order]] = order
        if (where < 0).any():
            raise InternalError(f"layout {self.name!r} has no slot for {int((where < 0).sum())} elements")
        return where // self.period, where % self.period

    def pack(self, values: FloatArray) -> FloatArray:
        """Slot vectors of one sample or of a batch.

        Args:
            values: (..., *shape).

        Returns:
            (..., ciphertexts, period); slots without an element are zero.
        """
        if values.shape[values.ndim - len(self.shape) :] != self.shape:
            raise ShapeMismatch(f"values of shape {values.shape} do not end in {self.shape}")
        lead = values.shape[: values.ndim - len(self.shape)]
        flat = np.concatenate([values.reshape(*lead, -1), np.zeros((*lead, 1))], axis=-1)
        return np.asarray(flat[..., self.index], dtype=np.float64)

    def unpack(self, slots: FloatArray) -> FloatArray:
        """The tensor (..., *shape) from slot vectors (..., ciphertexts, slots or period)."""
        ciphertext, slot = self.first
        picked = slots[..., ciphertext, slot]
        return np.asarray(picked.reshape(*slots.shape[:-2], *self.shape), dtype=np.float64)


def next_power(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(0, (n - 1).bit_length())


def place(
    shape: Shape, slots: int, slot: IntArray, *, period: int | None = None, name: str = "plain", zero: bool = True
) -> Layout:
    """A layout from the slot number of each element, over as many ciphertexts as it takes.

    Args:
        shape: the tensor's shape.
        slots: slots of a ciphertext.
        slot: per element its slot; numbers beyond ``slots`` go to further ciphertexts.
        period: repeat after so many slots (a power of two not above ``slots``); default is
            the smallest that fits.
        name: for reports.
        zero: see ``Layout``.
    """
    top = int(slot.max()) + 1
    if period is None:
        period = min(next_power(top), slots)
    if top > period:
        period = slots
    count = -(-top // period)
    index = np.full(count * period, -1, np.int64)
    index[slot] = np.arange(slot.size)
    return Layout(shape, slots, index.reshape(count, period), zero, name)
