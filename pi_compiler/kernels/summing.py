"""What the slots hold after a product of two layouts, or after rotate-and-add steps along an axis.

Layouts are explicit, so nothing here has to trust a formula: the element of the result and the term of its sum
are looked up for every slot, steps are tried, and a slot counts as a result only if it has collected each term
exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi_compiler.ir.circuit import SumPlan
from pi_compiler.ir.graph import IntArray
from pi_compiler.ir.layout import Layout, next_power
from pi_compiler.ir.stages import Contract, Reduce

Mask = NDArray[np.bool_]
_NONE = np.iinfo(np.int64).max
_WORD = 62  # bits of an integer that note which terms were seen


@dataclass(frozen=True, slots=True, eq=False)
class _Terms:
    """Per ciphertext and slot: element of the result and term of its sum, -1 for neither; whether it may be junk."""

    element: IntArray
    term: IntArray
    junk: Mask


def coordinates(index: IntArray, letters: str, sizes: Mapping[str, int]) -> dict[str, IntArray]:
    """Per axis the coordinate of the element in each slot, -1 where there is none."""
    shape = tuple(sizes[a] for a in letters)
    if not shape:
        return {}
    there = index >= 0
    found = np.unravel_index(np.where(there, index, 0), shape)
    return {a: np.where(there, c, -1) for a, c in zip(letters, found, strict=True)}


def numbered(where: Mapping[str, IntArray], letters: str, sizes: Mapping[str, int], like: IntArray) -> IntArray:
    """Flat element numbers from coordinates."""
    number = np.zeros_like(like)
    for a in letters:
        number = number * sizes[a] + where[a]
    return number


def contracted(stage: Contract, left: Layout, right: Layout) -> tuple[Layout, SumPlan] | None:
    """The layout of a product and how it is made; None if the operands do not meet in these layouts."""
    count = max(left.ciphertexts, right.ciphertexts)
    if min(left.ciphertexts, right.ciphertexts) not in (1, count):
        return None
    pairs = [(c % left.ciphertexts, c % right.ciphertexts) for c in range(count)]
    period = max(left.period, right.period)
    a = np.tile(left.index, (1, period // left.period))[[i for i, _ in pairs]]
    b = np.tile(right.index, (1, period // right.period))[[j for _, j in pairs]]
    first, second, out = stage.axes
    where = coordinates(a, first, stage.sizes)
    other = coordinates(b, second, stage.sizes)
    meets = (a >= 0) & (b >= 0)
    for letter in set(first) & set(second):
        meets &= where[letter] == other[letter]
    where = {**other, **where}
    summed = "".join(x for x in dict.fromkeys(first + second) if x not in out)
    zero = ((a < 0) & left.zero) | ((b < 0) & right.zero)
    terms = _Terms(
        np.where(meets, numbered(where, out, stage.sizes, a), -1),
        np.where(meets, numbered(where, summed, stage.sizes, a), -1),
        ~meets & ~zero,
    )
    length = int(np.prod([stage.sizes[x] for x in summed], dtype=np.int64))
    found = _collected(terms, length, replace(left, shape=stage.shape, taps=None, spread=()))
    if found is None:
        return None
    layout, groups, steps = found
    return layout, SumPlan(tuple(tuple(pairs[c] for c in g) for g in groups), steps)


def reduced(stage: Reduce, source: Layout) -> tuple[Layout, SumPlan] | None:
    """The layout of a sum over axes and how it is made; None if rotations alone do not give it."""
    inner, out = stage.axes
    where = coordinates(source.index, inner, stage.sizes)
    there = source.index >= 0
    summed = "".join(x for x in inner if x not in out)
    terms = _Terms(
        np.where(there, numbered(where, out, stage.sizes, source.index), -1),
        np.where(there, numbered(where, summed, stage.sizes, source.index), -1),
        ~there & (not source.zero),
    )
    length = int(np.prod([stage.sizes[x] for x in summed], dtype=np.int64))
    found = _collected(terms, length, replace(source, shape=stage.shape, taps=None, spread=()))
    if found is None:
        return None
    layout, groups, steps = found
    return layout, SumPlan(tuple(tuple((c, c) for c in g) for g in groups), steps)


def _collected(
    t: _Terms, length: int, like: Layout
) -> tuple[Layout, tuple[tuple[int, ...], ...], tuple[int, ...]] | None:
    """The layout after adding ciphertexts that hold the same elements, and after the best rotate-and-add steps."""
    groups, rows = _grouped(t)
    sizes = {len(g) for g in groups}
    if len(sizes) != 1:
        return None
    element = np.stack(rows)
    term = np.stack([t.term[list(g)] for g in groups])
    junk = np.stack([t.junk[list(g)].any(axis=0) for g in groups])
    count = next_power(-(-length // sizes.pop()))
    best: tuple[Layout, tuple[int, ...]] | None = None
    for step in _strides(element[0], count):
        steps = tuple(step << i for i in range((count - 1).bit_length()))
        layout = _after(element, term, junk, step, count, length, like)
        better = layout is not None and (
            best is None or (layout.zero, -layout.period) > (best[0].zero, -best[0].period)
        )
        if layout is not None and better:
            best = layout, steps
    return None if best is None else (best[0], groups, best[1])


def _grouped(t: _Terms) -> tuple[tuple[tuple[int, ...], ...], list[IntArray]]:
    """Ciphertexts that hold terms of the same elements in the same slots, and these elements; padding is left out."""
    groups: list[list[int]] = []
    rows: list[IntArray] = []
    for c, row in enumerate(t.element):
        if (row < 0).all():
            continue
        for group, own in zip(groups, rows, strict=True):
            both = (row >= 0) & (own >= 0)
            if both.any() and (row == own)[both].all():
                group.append(c)
                np.maximum(own, row, out=own)
                break
        else:
            groups.append([c])
            rows.append(row.copy())
    return tuple(tuple(g) for g in groups), rows


def _strides(row: IntArray, count: int) -> list[int]:
    """Distances, powers of two, at which a slot's element occurs again."""
    if count == 1:
        return [1]
    some = int(np.flatnonzero(row >= 0)[0]) if (row >= 0).any() else 0
    found = []
    step = 1
    while step * count <= row.size:
        if row[(some + step) % row.size] == row[some]:
            found.append(step)
        step *= 2
    return found


def _after(
    element: IntArray, term: IntArray, junk: Mask, step: int, count: int, length: int, like: Layout
) -> Layout | None:
    """The layout after folding ``count`` slots at a distance; None if some element is nowhere complete."""
    rows, clean = [], True
    for own, terms, wild in zip(element, term, junk, strict=True):
        largest = _folded(own, step, count, np.maximum)
        least = _folded(np.where(own < 0, _NONE, own), step, count, np.minimum)
        spoiled = _folded(wild, step, count, np.logical_or)
        complete = _once(terms, step, count, length)
        valid = (largest >= 0) & (largest == least) & complete & ~spoiled
        clean &= not bool(((largest >= 0) | spoiled)[~valid].any())
        rows.append(np.where(valid, largest, -1))
    index = np.stack(rows)
    if np.unique(index[index >= 0]).size != like.size:
        return None
    if clean:
        index = shortest(index)
    return replace(like, index=index, zero=clean)


def _folded(values: NDArray[Any], step: int, count: int, combine: np.ufunc) -> NDArray[Any]:
    """What ``count`` slots at a distance, a power of two of them, combine to in the first one's place."""
    size = step
    while size < step * count:
        values = combine(values, np.roll(values, -size))
        size *= 2
    return values


def _once(terms: IntArray, step: int, count: int, length: int) -> Mask:
    """Where each of ``length`` terms comes together exactly once; terms are (ciphertexts, period), -1 for none."""
    there = terms >= 0
    number = _folded(there.sum(axis=0), step, count, np.add)
    good = np.asarray(number == length)
    for low in range(0, length, _WORD):
        size = min(_WORD, length - low)
        inside = there & (terms >= low) & (terms < low + size)
        bits = np.where(inside, np.left_shift(1, np.where(inside, terms - low, 0)), 0)
        seen = _folded(np.bitwise_or.reduce(bits, axis=0), step, count, np.bitwise_or)
        good &= seen == (1 << size) - 1
    return good


def shortest(index: IntArray) -> IntArray:
    """One period of a periodic index."""
    while index.shape[1] > 1 and (index[:, : index.shape[1] // 2] == index[:, index.shape[1] // 2 :]).all():
        index = index[:, : index.shape[1] // 2]
    return index
