"""What the slots hold after a product of two layouts, or after rotate-and-add steps along an axis.

Layouts are explicit, so nothing here has to trust a formula: the element of the result and the term of its sum
are looked up for every slot, steps are tried, and a slot counts as a result only if it has collected each term
exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi_compiler.ir.circuit import Pair, SumPlan
from pi_compiler.ir.graph import IntArray
from pi_compiler.ir.layout import Layout, next_power
from pi_compiler.ir.stages import Contract, Reduce

Mask = NDArray[np.bool_]
_NONE = np.iinfo(np.int64).max
_WORD = 62  # bits of an integer that note which terms were seen
_MOST_MEETINGS = 1 << 20  # elements that meet, counted for every turn; beyond that layouts have far too many copies
_MOST_ELEMENTS = 1 << 20  # with copies
_MOST_PRODUCTS = 2  # times those whose slots are full of terms
_MOST_COPIES = 8  # times as many to look at, for elements with copies meet at several turns
_MOST_SWITCHES = 1.5  # times those of the split with the fewest


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


def contracted(stage: Contract, left: Layout, right: Layout, *, anyhow: bool = True) -> list[tuple[Layout, SumPlan]]:
    """The layouts that a product may have and how it is made, fewest rotations first; none if operands do not meet.

    Ciphertexts meet as they are where they can; where there are several, any two whose elements meet; at last the
    right one turned as well, slot s receiving slot s + t, which in layouts of one axis makes the diagonals of a product
    of matrices. Turns are then split between both operands and the sums, by baby steps and giant steps.

    Args:
        stage: the product.
        left: layout of the left operand.
        right: layout of the right one.
        anyhow: if not, ciphertexts have to meet as they are, one by one.
    """
    count = max(left.ciphertexts, right.ciphertexts)
    if min(left.ciphertexts, right.ciphertexts) in (1, count):
        pairs = np.array([(c % left.ciphertexts, c % right.ciphertexts, 0) for c in range(count)])
        found = _collected(_products(stage, left, right, pairs), stage, left)
        if found is not None:
            layout, groups, steps = found
            return [(layout, SumPlan(tuple(tuple(Pair(*pairs[c, :2].tolist()) for c in g) for g in groups), steps))]
    if not anyhow:
        return []
    for turned in (False, True):
        meeting = _meeting(stage, left, right, turned=turned)
        if meeting is None:
            return []
        options = _turned(meeting, _products(stage, left, right, meeting), stage, left)
        if options:
            return options
    return []


def reduced(stage: Reduce, source: Layout) -> list[tuple[Layout, SumPlan]]:
    """The layout of a sum over axes and how it is made; nothing if rotations alone do not give it."""
    inner, out = stage.axes
    where = coordinates(source.index, inner, stage.sizes)
    there = source.index >= 0
    summed = "".join(x for x in inner if x not in out)
    terms = _Terms(
        np.where(there, numbered(where, out, stage.sizes, source.index), -1),
        np.where(there, numbered(where, summed, stage.sizes, source.index), -1),
        ~there & (not source.zero),
    )
    found = _collected(terms, stage, source)
    if found is not None:
        layout, groups, steps = found
        return [(layout, SumPlan(tuple(tuple(Pair(c, c) for c in g) for g in groups), steps))]
    if source.ciphertexts == 1:
        return []
    each = np.arange(source.ciphertexts)
    return _turned(np.stack([each, each, np.zeros_like(each)], axis=1), terms, stage, source)


def _products(stage: Contract, left: Layout, right: Layout, pairs: IntArray) -> _Terms:
    """What products of ciphertexts hold; ``pairs`` (n, 3) columns: left, right, turn of the right one."""
    period = max(left.period, right.period)
    a = np.tile(left.index, (1, period // left.period))[pairs[:, 0]]
    slot = (np.arange(period) + pairs[:, 2:]) % right.period
    b = right.index[pairs[:, 1:2], slot]
    first, second, out = stage.axes
    where = coordinates(a, first, stage.sizes)
    other = coordinates(b, second, stage.sizes)
    meets = (a >= 0) & (b >= 0)
    for letter in set(first) & set(second):
        meets &= where[letter] == other[letter]
    where = {**other, **where}
    summed = "".join(x for x in dict.fromkeys(first + second) if x not in out)
    zero = ((a < 0) & left.zero) | ((b < 0) & right.zero)
    return _Terms(
        np.where(meets, numbered(where, out, stage.sizes, a), -1),
        np.where(meets, numbered(where, summed, stage.sizes, a), -1),
        ~meets & ~zero,
    )


def _meeting(stage: Contract, left: Layout, right: Layout, *, turned: bool) -> IntArray | None:
    """Ciphertexts with elements that meet, (n, 3): left, right, turn; None if they are too many to look at."""
    period = max(left.period, right.period)
    a = np.tile(left.index, (1, period // left.period))
    b = right.index if turned else np.tile(right.index, (1, period // right.period))
    shared = "".join(x for x in stage.axes[0] if x in stage.axes[1])
    codes = []
    for index, letters in ((a, stage.axes[0]), (b, stage.axes[1])):
        where = coordinates(index, letters, stage.sizes)
        code = np.where(index >= 0, numbered(where, shared, stage.sizes, index), -1)
        codes.append(code if turned else np.where(code >= 0, code * period + np.arange(period), -1))
    own, other = (np.flatnonzero(c.ravel() >= 0) for c in codes)
    if max(own.size, other.size) > _MOST_ELEMENTS:
        return None
    key, keys = codes[0].ravel()[own], codes[1].ravel()[other]
    order = np.argsort(keys, kind="stable")
    low, high = (np.searchsorted(keys[order], key, side=side) for side in ("left", "right"))
    number = high - low
    total = int(number.sum())
    if total > _MOST_MEETINGS:
        return None
    first = np.repeat(own, number)
    second = other[order[np.repeat(low, number) + np.arange(total) - np.repeat(number.cumsum() - number, number)]]
    turn = (second % b.shape[1] - first % period) % b.shape[1]
    code = np.unique(((first // period) * len(b) + second // b.shape[1]) * b.shape[1] + turn)
    if code.size > _MOST_COPIES * _MOST_PRODUCTS * max(1, slots_of_terms(stage) // period):
        return None
    return np.stack([code // b.shape[1] // len(b), code // b.shape[1] % len(b), code % b.shape[1]], axis=1)


def slots_of_terms(stage: Contract | Reduce) -> int:
    """Slots that it takes to hold all terms of a stage's sums, axes padded to powers of two."""
    return int(np.prod([next_power(n) for n in stage.sizes.values()], dtype=np.int64))


def _length(stage: Contract | Reduce) -> int:
    """Terms of each element's sum."""
    axes, out = "".join(stage.axes[:-1]), stage.axes[-1]
    return int(np.prod([stage.sizes[x] for x in dict.fromkeys(axes) if x not in out], dtype=np.int64))


def _collected(
    t: _Terms, stage: Contract | Reduce, like: Layout
) -> tuple[Layout, tuple[tuple[int, ...], ...], tuple[int, ...]] | None:
    """The layout after adding ciphertexts that hold the same elements, and after the best rotate-and-add steps."""
    groups, rows = _grouped(t)
    sizes = {len(g) for g in groups}
    if len(sizes) != 1:
        return None
    terms = [t.term[list(g)] for g in groups]
    junk = np.stack([t.junk[list(g)].any(axis=0) for g in groups])
    length = _length(stage)
    found = _best(np.stack(rows), terms, junk, next_power(-(-length // sizes.pop())), stage, like)
    return None if found is None else (found[0], groups, found[1])


def _best(
    element: IntArray, terms: Sequence[IntArray], junk: Mask, count: int, stage: Contract | Reduce, like: Layout
) -> tuple[Layout, tuple[int, ...]] | None:
    """The layout after the best steps that fold ``count`` slots, and these."""
    best: tuple[Layout, tuple[int, ...]] | None = None
    for step in _strides(element[0], count):
        steps = tuple(step << i for i in range((count - 1).bit_length()))
        layout = _after(
            element, terms, junk, step, count, _length(stage), replace(like, shape=stage.shape, taps=None, spread=())
        )
        better = layout is not None and (
            best is None or (layout.zero, -layout.period) > (best[0].zero, -best[0].period)
        )
        if layout is not None and better:
            best = layout, steps
    return best


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


@dataclass(slots=True)
class _Group:
    """Products that add into one ciphertext.

    Attributes:
        row: its elements.
        junk: slots that may hold junk.
        members: numbers of the products, each with the rotation that brings it into place.
    """

    row: IntArray
    junk: Mask
    members: list[tuple[int, int]]


def _turned(pairs: IntArray, t: _Terms, stage: Contract | Reduce, like: Layout) -> list[tuple[Layout, SumPlan]]:
    """The ways to split turns, fewest rotations first.

    Args:
        pairs: (n, 3) columns: left, right, turn of the right one.
        t: what the products hold.
        stage: the product or the sum.
        like: an operand's layout.
    """
    order, valid = _needed(t)
    most = _MOST_PRODUCTS * max(1, slots_of_terms(stage) // t.element.shape[1])
    if order is None or (isinstance(stage, Contract) and order.size > most):
        return []
    groups = _gathered(pairs, t, order, valid)
    if groups is None:
        return []
    period = t.element.shape[1]
    element = np.stack([g.row for g in groups])
    terms, junk = [], []
    for g in groups:
        numbers, backs = np.array(g.members).T
        moved = (np.arange(period) + backs[:, None]) % period
        terms.append(t.term[numbers[:, None], moved])
        junk.append(t.junk[numbers[:, None], moved].any(axis=0))
    deepest = max(int((x >= 0).sum(axis=0).max()) for x in terms)
    count = next_power(-(-_length(stage) // deepest))
    found = _best(element, terms, np.stack(junk), count, stage, like)
    if found is None:
        return []
    layout, steps = replace(found[0], name=f"turned, {like.name}" if pairs[:, 2].any() else like.name), found[1]
    still = not pairs[:, 2].any() and not any(back for g in groups for _, back in g.members)
    widths = [1] if isinstance(stage, Reduce) or still else [1 << i for i in range(period.bit_length())]
    ways = product(widths, (False,) if isinstance(stage, Reduce) or still else (False, True))
    split = [_split(pairs, groups, layout, steps, period, width, whole=whole) for width, whole in ways]
    options = list({(moved.key, plan.groups): (moved, plan) for moved, plan in split}.values())
    options.sort(key=lambda o: o[1].switches)
    return [o for o in options if o[1].switches <= _MOST_SWITCHES * options[0][1].switches]


def _split(
    pairs: IntArray,
    groups: Sequence[_Group],
    layout: Layout,
    steps: tuple[int, ...],
    period: int,
    width: int,
    *,
    whole: bool,
) -> tuple[Layout, SumPlan]:
    """Right operands turned by baby steps below ``width``; giant steps are left to left operands and to sums.

    A product of turned operands is the turned product of the right one turned by the difference. Where one rotation
    would bring all products of a result into place, the result stays where it is; if ``whole``, all of them are turned
    as far as the first one.
    """
    made = []
    for g, row in zip(groups, layout.index, strict=True):
        chosen: list[Pair] = []
        for c, back in g.members:
            left, right, turn = pairs[c].tolist()
            baby = (turn + back) % period % width
            if whole and chosen:
                baby = (turn + back - chosen[0].back) % period
            chosen.append(Pair(left, right, (baby - turn) % period, baby, (turn + back - baby) % period))
        common = chosen[0].back
        chosen = sorted((p._replace(back=(p.back - common) % period) for p in chosen), key=lambda p: (p.back, p))
        made.append((tuple(chosen), np.roll(np.tile(row, period // row.size), common)))
    # Few turned operands live at a time where results that want the same one follow each other.
    made.sort(key=lambda m: (m[0][0].left, m[0][0].right_turn, m[0][0].left_turn, m[0][0].right))
    index = shortest(np.stack([row for _, row in made]))
    return replace(layout, index=index), SumPlan(tuple(chosen for chosen, _ in made), steps)


def _gathered(pairs: IntArray, t: _Terms, order: IntArray, valid: Sequence[IntArray]) -> list[_Group] | None:
    """Products that hold terms of the same elements, rotated to hold them in the same slots; None if that fails.

    Elements that come in several products' slots, none of them in the same, share a
    ciphertext if the products are of the same two.
    """
    groups: list[_Group] = []
    home: dict[int, int] = {}
    mates: dict[tuple[int, int], list[int]] = {}
    known: dict[bytes, tuple[int, int]] = {}
    for c in order.tolist():
        row = t.element[c]
        found = known.get(row.tobytes())
        if found is None:
            there = row[valid[c]].tolist()
            number = next((home[e] for e in there if e in home), None)
            back: int | None = 0
            if number is None:
                own = mates.setdefault((int(pairs[c, 0]), int(pairs[c, 1])), [])
                fitting = [n for n in own if _apart(groups[n], row, t.junk[c])]
                number = min(fitting, key=lambda n: int((groups[n].row < 0).sum()), default=len(groups))
                if number == len(groups):
                    groups.append(_Group(np.full_like(row, -1), np.zeros(row.size, bool), []))
                    own.append(number)
            else:
                back = _alignment(groups[number].row, row, valid[c])
            if back is None:
                return None
            found = known[row.tobytes()] = number, back
            groups[number].row = np.where(groups[number].row >= 0, groups[number].row, np.roll(row, -back))
            home.update(dict.fromkeys(there, number))
        g = groups[found[0]]
        g.members.append((c, found[1]))
        if t.junk[c].any():
            g.junk = g.junk | np.roll(t.junk[c], -found[1])
    return groups


def _needed(t: _Terms) -> tuple[IntArray | None, list[IntArray]]:
    """Products to be made, those with most elements first, and the slots of their elements.

    Every term has to be in one of them and in one only: nothing is left if a product has some that others have.
    """
    there = t.element >= 0
    code = t.element * (int(t.term.max(initial=0)) + 1) + t.term
    order = np.argsort(-there.sum(axis=1), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    product, slot = np.nonzero(there)
    codes, ranks = code[product, slot], rank[product]
    own = np.unique(codes * order.size + ranks)
    _, first = np.unique(own // order.size, return_index=True)
    terms = np.bincount(own % order.size, minlength=order.size)
    new = np.bincount(own[first] % order.size, minlength=order.size)
    if ((new > 0) & (new < terms)).any():
        return None, []
    bounds = np.searchsorted(product, np.arange(order.size + 1))
    return order[new > 0], [slot[a:b] for a, b in pairwise(bounds.tolist())]


def _alignment(own: IntArray, row: IntArray, there: IntArray) -> int | None:
    """By how much a product is to be rotated so that its elements are where they are already; None if it cannot be."""
    for s in there.tolist():
        places = np.flatnonzero(own == row[s])
        for back in ((s - places) % own.size).tolist():
            moved = np.roll(row, -back)
            if ((moved == own) | (moved < 0) | (own < 0)).all():
                return int(back)
        if places.size:
            return None
    return None


def _apart(group: _Group, row: IntArray, junk: Mask) -> bool:
    """Whether a product's elements fit between those of a group."""
    mine, others = row >= 0, group.row >= 0
    return not bool(((mine | junk) & others).any() or (mine & group.junk).any())


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
    element: IntArray, term: Sequence[IntArray], junk: Mask, step: int, count: int, length: int, like: Layout
) -> Layout | None:
    """The layout after folding ``count`` slots at a distance; None if some element is nowhere complete."""
    largest = _folded(element, step, count, np.maximum)
    least = _folded(np.where(element < 0, _NONE, element), step, count, np.minimum)
    spoiled = _folded(junk, step, count, np.logical_or)
    valid = (largest >= 0) & (largest == least) & _once(term, step, count, length) & ~spoiled
    clean = not bool(((largest >= 0) | spoiled)[~valid].any())
    index = np.where(valid, largest, -1)
    if np.unique(index[index >= 0]).size != like.size:
        return None
    if clean:
        index = shortest(index)
    return replace(like, index=index, zero=clean)


def _folded(values: NDArray[Any], step: int, count: int, combine: np.ufunc) -> NDArray[Any]:
    """What ``count`` slots at a distance, a power of two of them, combine to in the first one's place."""
    size = step
    while size < step * count:
        values = combine(values, np.roll(values, -size, axis=-1))
        size *= 2
    return values


def _once(term: Sequence[IntArray], step: int, count: int, length: int) -> Mask:
    """Where each of ``length`` terms comes together exactly once.

    Args:
        term: per result the terms (ciphertexts, period) in its ciphertexts, -1 for none.
        step: distance of slots that are folded.
        count: how many.
        length: terms of a sum.
    """
    number = np.stack([(x >= 0).sum(axis=0) for x in term])
    good = np.asarray(_folded(number, step, count, np.add) == length)
    for low in range(0, length, _WORD):
        size = min(_WORD, length - low)
        bits = np.append(np.left_shift(1, np.arange(size)), 0)
        # What is none, or of another word, takes the zero at the end.
        own = np.stack([np.bitwise_or.reduce(bits[_within(x, low, size)], axis=0) for x in term])
        good &= _folded(own, step, count, np.bitwise_or) == (1 << size) - 1
    return good


def _within(terms: IntArray, low: int, size: int) -> IntArray:
    return np.where((terms >= low) & (terms < low + size), terms - low, size)


def shortest(index: IntArray) -> IntArray:
    """One period of a periodic index."""
    while index.shape[1] > 1 and (index[:, : index.shape[1] // 2] == index[:, index.shape[1] // 2 :]).all():
        index = index[:, : index.shape[1] // 2]
    return index
