"""Layouts in which the operands of a product meet.

A space says which coordinates each slot stands for, over all axes of a product: ``hikj`` for a product of matrices per
head. An operand's layout is the space without the axes that the operand does not have, so its elements repeat along
these; the repetitions that are no periods are made by rotate-and-add after the operand's affine map. With the summed
axis outermost, folding over it wraps around: the result is clean and repeats, which is what the next product wants, and
transposing takes no rotation.

Columns have some axes in slots and the others over ciphertexts. Products of them are turned into place
(``kernels/summing.py``), so an operand needs no copies of axes that it does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, permutations

import numpy as np
from scipy import sparse

from pi_compiler.ir.graph import IntArray, Shape
from pi_compiler.ir.layout import Layout, next_power
from pi_compiler.ir.stages import Contract, Matrix
from pi_compiler.kernels.summing import coordinates, numbered, shortest

_FREE = -2  # a slot in which an operand may hold anything, for the other one holds zero or junk there
_MOST_AXES = 4
_MOST_PLACES = 1 << 24  # elements times slots; columns have few slots


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Per axis the coordinate of each slot, (ciphertexts, period); -1 where nothing is placed, ``>= size`` in padding.

    Attributes:
        where: coordinates by axis.
        name: for reports.
    """

    where: Mapping[str, IntArray]
    name: str


def ordered(axes: str, sizes: Mapping[str, int], slots: int) -> Space:
    """Axes one inside the other, the last one innermost, each padded to a power of two."""
    padded = [next_power(sizes[a]) for a in axes]
    total = int(np.prod(padded, dtype=np.int64))
    grid = np.unravel_index(np.arange(total), padded) if axes else ()
    shape = (-(-total // slots), min(total, slots))
    return Space({a: g.reshape(shape) for a, g in zip(axes, grid, strict=True)}, "axes " + axes)


def columns(axes: str, sizes: Mapping[str, int], slots: int) -> Iterator[Space]:
    """Some axes in slots, the others over ciphertexts: what ciphertexts hold then needs no rotation to be added.

    The first axis in slots turns round with them, so products along it need turns only. Room behind the axes in slots
    is filled with a part of another one. Where several ciphertexts would be half empty there is no space.
    """
    size = int(np.prod([sizes[a] for a in axes], dtype=np.int64))
    for inside in chain.from_iterable(permutations(axes, n) for n in range(1, len(axes) + 1)):
        held = int(np.prod([next_power(sizes[a]) for a in inside], dtype=np.int64))
        outside = [a for a in axes if a not in inside]
        room = slots // held
        for part in [None, *(a for a in outside if 1 < room < sizes[a])]:
            outer = [-(-sizes[a] // room) if a == part else sizes[a] for a in outside]
            inner = [next_power(sizes[a]) for a in inside] + ([] if part is None else [room])
            count = int(np.prod(outer, dtype=np.int64))
            if held > slots or (count > 1 and count * slots >= 2 * size):
                continue
            grid = np.unravel_index(np.arange(count * int(np.prod(inner))), (*outer, *inner))
            where = dict(zip([*outside, *inside], grid[: len(axes)], strict=True))
            if part is not None:
                where[part] = where[part] * room + grid[-1]
            name = f"{''.join(inside)} in slots" + ("" if part is None else f", {room} of {part}")
            yield Space({a: w.reshape(count, -1) for a, w in where.items()}, name)


def filled(layout: Layout) -> Layout | None:
    """The same with copies in the free slots behind each element, where all have as many; made by rotate-and-add.

    A sum that is folded within groups of slots leaves its elements so, and a product with more columns wants copies.
    """
    there = np.flatnonzero((layout.index >= 0).any(axis=0))
    gap = int(np.gcd.reduce(there, initial=layout.period))
    room = gap & -gap
    if room < 2 or layout.spread:
        return None
    index = np.repeat(layout.index[:, ::room], room, axis=1)
    spread = tuple(1 << i for i in range(room.bit_length() - 1))
    return Layout(layout.shape, layout.slots, index, True, f"{layout.name}, {room} copies", None, spread)


def pulled(matrix: Matrix, source: Shape, result: Layout) -> Layout | None:
    """A layout of a map's operand in which every element is in the slots that it is needed in, so nothing is rotated.

    None if two elements are needed in some but not all slots in common, or if there are too many to look at.
    """
    period = result.period
    if max(matrix.shape) * period > _MOST_PLACES:
        return None
    there = np.nonzero(result.index >= 0)
    ones = np.ones(there[0].size, np.int32)
    slots_of = sparse.csr_array((ones, (result.index[there], there[1])), shape=(result.size, period))
    coo = matrix.tocoo()
    readers = sparse.csr_array((np.ones(coo.nnz, np.int32), (coo.col, coo.row)), shape=matrix.shape[::-1])
    needed = (readers @ slots_of).toarray() > 0
    sets, number = np.unique(needed, axis=0, return_inverse=True)
    if (sets.sum(axis=0) > 1).any() or not needed.any(axis=1).all():
        return None
    order = np.argsort(number, kind="stable")
    first = np.searchsorted(number[order], number[order])
    place = np.empty_like(order)
    place[order] = np.arange(order.size) - first
    index = np.full((int(place.max()) + 1, period), -1, np.int64)
    element, slot = np.nonzero(needed)
    index[place[element], slot] = element
    return Layout(source, result.slots, shortest(index), True, f"as needed for {result.name}")


def spaces(stage: Contract, first: str, slots: int) -> Iterator[Space]:
    """Spaces worth trying, the summed axes outermost.

    Args:
        stage: the product.
        first: axes of the result that have to follow the summed ones, because the result is summed over them.
        slots: slots of a ciphertext.
    """
    left, right, out = stage.axes
    summed = "".join(a for a in dict.fromkeys(left + right) if a not in out)
    first = "".join(a for a in first if a not in summed)
    rest = "".join(a for a in out if a not in first)
    orders = permutations(rest) if len(rest) < _MOST_AXES else [tuple(rest), tuple(reversed(rest))]
    for order in orders:
        yield ordered(summed + first + "".join(order), stage.sizes, slots)


def extended(stage: Contract, anchor: Layout, slots: int) -> Space | None:
    """The left operand's layout as it is, with the axes that it lacks outside of it."""
    own = stage.axes[0]
    new = "".join(a for a in dict.fromkeys(stage.axes[1]) if a not in own)
    padded = [next_power(stage.sizes[a]) for a in new]
    count = int(np.prod(padded, dtype=np.int64))
    if new and anchor.ciphertexts > 1:
        return None
    inner = coordinates(anchor.index, own, stage.sizes)
    total = anchor.period * count
    shape = (anchor.ciphertexts, anchor.period) if not new else (-(-total // slots), min(total, slots))
    where = {a: np.tile(c, (1, count)).reshape(shape) for a, c in inner.items()}
    outer = np.unravel_index(np.arange(total) // anchor.period, padded) if new else ()
    there = np.tile(anchor.index >= 0, (1, count)).reshape(shape)
    for a, c in zip(new, outer, strict=True):
        where[a] = np.where(there, c.reshape(shape), -1)
    return Space(where, f"{new} around {anchor.name}" if new else anchor.name)


def projected(space: Space, axes: str, sizes: Mapping[str, int], shape: Shape, slots: int) -> Layout | None:
    """An operand's layout in a space; None if its copies cannot be made by rotations."""
    if not axes:
        # A single number, such as the length of a sentence, repeats everywhere.
        return Layout(shape, slots, np.zeros((1, 1), np.int64), True, space.name)
    where = [space.where[a] for a in axes]
    inside = np.logical_and.reduce([(c >= 0) & (c < sizes[a]) for a, c in zip(axes, where, strict=True)])
    index = np.where(inside, numbered(space.where, axes, sizes, where[0]), -1)
    index[np.logical_or.reduce([c < 0 for c in where])] = _FREE
    if (index == index[:1]).all():
        index = index[:1]
    found = _copies(index)
    if found is None:
        return None
    index, spread = found
    return Layout(shape, slots, index, True, space.name, None, spread)


def _copies(index: IntArray) -> tuple[IntArray, tuple[int, ...]] | None:
    """The index with its free slots decided, and the steps that copy each element from its first slot.

    A slot number is a word of bits; a bit along which nothing changes is a copy, or at the top a period.
    """
    count, period = index.shape
    bits = period.bit_length() - 1
    table = index.reshape(count, *(2,) * bits)
    copied = []
    for axis in range(1, bits + 1):
        zero, one = np.take(table, [0], axis), np.take(table, [1], axis)
        if ((zero == one) | (zero == _FREE) | (one == _FREE)).all():
            table = np.where(zero == _FREE, one, zero)
            copied.append(axis)
    elements = table[table >= 0]
    if np.unique(elements).size != elements.size:
        return None
    top = 0
    while top < bits and top + 1 in copied:
        top += 1
    spread = tuple(1 << (bits - axis) for axis in copied if axis > top)
    full = np.broadcast_to(table, (count, *(1,) * top, *(2,) * (bits - top)))
    full = full.reshape(count, period >> top)
    return np.where(full == _FREE, -1, full), spread


def meeting_layouts(stage: Contract, operand: int, shape: Shape, choices: Sequence[Space], slots: int) -> list[Layout]:
    """The layouts of an operand (0 left, 1 right) in some spaces."""
    axes = stage.axes[operand]
    found = (projected(space, axes, stage.sizes, shape, slots) for space in choices)
    return [layout for layout in found if layout is not None]
