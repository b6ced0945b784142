"""Sparse matrix times packed vector: diagonals by baby-step giant-step, then folds.

The diagonal method is Halevi and Shoup's (Algorithms in HElib, CRYPTO 2014), the hybrid embedding
that trades diagonals for rotate-and-add folds is Gazelle's (USENIX Security 2018). Vectors may
be periodic: then rotations act on the period, a result is periodic again, and no fold is needed
to keep it so. Several matrices that add into one result share giant steps and one rescaling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pi_compiler.errors import InternalError
from pi_compiler.ir.circuit import MatVecPlan
from pi_compiler.ir.graph import FloatArray, IntArray
from pi_compiler.ir.layout import Layout
from pi_compiler.ir.stages import Matrix
from pi_compiler.ir.taps import Entries
from pi_compiler.kernels.algebra import Algebra, Constant, Value

_SOME = 32
"""Rows that show at once that values differ."""
_ROUNDING = 2.0**-22
"""Weights that are the same before scalings are folded into them are the same so far, in single precision."""
_DENSE = 8
"""Codes up to so many times their number are counted in a table, not by sorting."""


def centered(d: IntArray, period: int | IntArray) -> IntArray:
    """The representative of d modulo an even period (a power of two) in [-period/2, period/2)."""
    half = period // 2
    return ((d + half) & (period - 1)) - half


def assign(matrix: Matrix, source: Layout, result: Layout) -> Entries:
    """Assign the nonzeros of a matrix for given layouts.

    Where the source's period m exceeds the result's period p, an element of the result has m/p
    copies to collect its sum in, so diagonals are taken modulo p (hybrid embedding) and folds of
    p, 2p, ... m/2 add the copies.
    """
    coo = matrix.tocoo()
    if source.taps is not None:
        return source.taps.assign(coo.row.astype(np.int64), coo.col.astype(np.int64), np.asarray(coo.data), result)
    (out_ct, row_slot), (in_ct, column_slot) = result.first, source.first
    r, c = row_slot[coo.row], column_slot[coo.col]
    m, p = source.period, result.period
    zero = np.zeros(1, np.int64)
    outs = out_ct[coo.row] if result.ciphertexts > 1 else zero
    ins = in_ct[coo.col] if source.ciphertexts > 1 else zero
    if p >= m:
        return Entries(outs, ins, centered(c - r, m), r, coo.data, p)
    d = centered(c - r, p)
    return Entries(outs, ins, d, (c - d) & (m - 1), coo.data, m)


def folds(entries: Sequence[Entries], source: Sequence[Layout], result: Layout) -> tuple[tuple[int, ...], int]:
    """The rotate-and-add steps, and the factor by which they multiply a periodic vector."""
    lanes: tuple[int, ...] = ()
    if source[0].taps is not None:
        lanes = source[0].taps.lane_folds
    span = max(e.period for e in entries)
    steps = []
    step = result.period
    while step < span:
        steps.append(step)
        step *= 2
    return (*lanes, *steps, *(-step for step in result.spread)), span


@dataclass(frozen=True, eq=False)
class Structure:
    """The distinct diagonals of an affine map: what its price depends on.

    Attributes:
        keys: (diagonals, 4) columns: output ciphertext, source, input ciphertext, diagonal.
        full: per diagonal whether it has a nonzero wherever the source may hold anything but zero.
        periods: per source the period of its vectors.
        folds: rotate-and-add steps.
        span: period before the folds.
        outputs: number of output ciphertexts.
    """

    keys: IntArray
    full: NDArray[np.bool_]
    periods: tuple[int, ...]
    folds: tuple[int, ...]
    span: int
    outputs: int

    @cached_property
    def rotated(self) -> int:
        """Number of output ciphertexts that take rotations before the folds."""
        moved = self.keys[:, 3] % np.asarray(self.periods)[self.keys[:, 1]] != 0
        return int(np.unique(self.keys[moved, 0]).size)


def structure(matrices: Sequence[Matrix], sources: Sequence[Layout], result: Layout) -> Structure:
    """The distinct diagonals for given layouts."""
    parts, full, entries = [], [], []
    for number, (matrix, layout) in enumerate(zip(matrices, sources, strict=True)):
        e = assign(matrix, layout, result)
        entries.append(e)
        unique, count = _tally(_code(e.out_ct, e.in_ct, e.diagonal, layout))
        block, d = unique // (4 * layout.slots), unique % (4 * layout.slots) - 2 * layout.slots
        column, in_ct = np.full_like(d, number), block % layout.ciphertexts
        parts.append(np.stack([block // layout.ciphertexts, column, in_ct, d], axis=1))
        full.append(count == (occupied(layout).sum(axis=1) * (e.period // layout.period))[in_ct])
    steps, span = folds(entries, sources, result)
    keys = np.concatenate(parts)
    # A ciphertext of the result without any nonzero still has to exist: an all-zero diagonal makes it.
    empty = np.setdiff1d(np.arange(result.ciphertexts), keys[:, 0])
    keys = np.concatenate([keys, np.stack([empty, *[np.zeros_like(empty)] * 3], axis=1)])
    full.append(np.ones(len(empty), bool))
    return Structure(keys, np.concatenate(full), tuple(s.period for s in sources), steps, span, result.ciphertexts)


def occupied(source: Layout) -> NDArray[np.bool_]:
    """Slots (ciphertexts, period) that may hold something; what multiplies the others may be anything."""
    return (source.index >= 0) | (not source.zero)


def uniform(s: Structure, matrices: Sequence[Matrix], sources: Sequence[Layout], result: Layout) -> NDArray[np.bool_]:
    """Per diagonal whether one number can stand for it: its values are equal wherever they matter.

    The pattern alone says that most diagonals have no chance, and some rows that others have none: all values are
    looked at only where these leave one.
    """
    found = s.full.copy()
    for number, (matrix, layout) in enumerate(zip(matrices, sources, strict=True)):
        for rows in (min(_SOME, matrix.shape[0]), matrix.shape[0]):
            mine = np.flatnonzero(found & (s.keys[:, 1] == number))
            if mine.size:
                e = assign(_thinned(matrix, rows), layout, result)
                found[mine] = _alike(s.keys[mine], e, layout)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A baby-step giant-step split: d = baby + giant with baby in [offset, offset + width)."""

    width: int
    offset: int
    babies: int
    giants: int
    cost: float


def steps_of(s: Structure, width: int, offset: int) -> tuple[IntArray, IntArray]:
    """Baby and giant step of every diagonal."""
    d = s.keys[:, 3]
    baby = (d - offset) % width + offset
    return baby, d - baby


def best_split(
    s: Structure,
    baby_price: float,
    giant_price: float,
    free: Callable[[int, int, int], bool] | None = None,
    hints: Sequence[int] = (),
    thorough: bool = True,
) -> Split:
    """The cheapest split over many widths and offsets.

    Args:
        s: the diagonals.
        baby_price: price of one baby step.
        giant_price: price of one giant step.
        free: whether source s, ciphertext c rotated by b exists already.
        hints: widths worth trying besides powers of two times small odd numbers, such as
            multiples of an image's row length.
        thorough: also try odd multiples and more offsets.
    """
    d = s.keys[:, 3]
    widest = 2 * max(1, int(np.abs(d).max()))
    widths = {1 << i for i in range(widest.bit_length() + 1)}
    if thorough:
        widths |= {w * k for w in list(widths) for k in (3, 5, 7) if w * k <= widest}
    widths |= {h * k for h in hints for k in (range(1, 9) if thorough else (1, 2, 4)) if 0 < h * k <= widest}
    counter = _Counter(s, free)
    best: Split | None = None
    for width in sorted(widths):
        for offset in {0, -(width // 2), *((-(width // 4), int(d.min()) % width - width) if thorough else ())}:
            babies, giants = counter.count(width, offset)
            cost = babies * baby_price + giants * giant_price
            if best is None or cost < best.cost:
                best = Split(width, offset, babies, giants, cost)
    if best is None:
        raise InternalError("no split was tried: the matrix has no diagonals")
    return best


class _Counter:
    """Counts the rotations of a split by marking them in tables, which is faster than sorting."""

    def __init__(self, s: Structure, free: Callable[[int, int, int], bool] | None) -> None:
        self.s, self.free = s, free
        self.cts = 1 + int(s.keys[:, 2].max())
        self.block = s.keys[:, 1] * self.cts + s.keys[:, 2]
        self.blocks = 1 + int(self.block.max())
        self.period = np.asarray(s.periods)[s.keys[:, 1]]
        self.diagonals = s.keys[:, 3]

    def count(self, width: int, offset: int) -> tuple[int, int]:
        """Baby and giant steps that cost a rotation."""
        baby = (self.diagonals - offset) % width + offset
        giant = (self.diagonals - baby) % self.s.span
        marked = np.zeros((self.s.outputs, self.s.span), bool)
        marked[self.s.keys[:, 0], giant] = True
        return self._babies(baby, width, offset), int(marked[:, 1:].sum())

    def _babies(self, baby: IntArray, width: int, offset: int) -> int:
        marked = np.zeros((self.blocks, width), bool)
        moved = baby % self.period != 0
        marked[self.block[moved], baby[moved] - offset] = True
        if self.free is None:
            return int(marked.sum())
        block, index = np.nonzero(marked)
        return sum(
            not self.free(k // self.cts, k % self.cts, b + offset)
            for k, b in zip(block.tolist(), index.tolist(), strict=True)
        )


def make_plan(
    s: Structure, split: Split, sources: tuple[int, ...], bias: FloatArray, numbers: NDArray[np.bool_]
) -> MatVecPlan:
    """The plan for a chosen split; ``numbers`` are the diagonals that are ``uniform``."""
    baby, giant = steps_of(s, split.width, split.offset)
    # A rotation by a multiple of the period is none.
    period = np.asarray(s.periods)[s.keys[:, 1]]
    baby, giant = centered(baby, period), centered(giant, s.span)
    terms = np.stack([s.keys[:, 0], s.keys[:, 1], s.keys[:, 2], baby, giant, s.keys[:, 3]], axis=1)
    order = np.lexsort((terms[:, 3], terms[:, 2], terms[:, 1], terms[:, 4], terms[:, 0]))
    return MatVecPlan(sources, terms[order], numbers[order], s.folds, s.span, bias)


def diagonals(
    plan: MatVecPlan, matrices: Sequence[Matrix], sources: Sequence[Layout], result: Layout
) -> list[Constant]:
    """Per term its diagonal, rotated back by its giant step: one period each, float32 values; or its one number."""
    out: list[Constant] = [0.0] * len(plan.terms)
    for number, (matrix, layout) in enumerate(zip(matrices, sources, strict=True)):
        mine = np.flatnonzero(plan.terms[:, 1] == number)
        e = assign(matrix, layout, result)
        term = plan.terms[mine]
        codes, code = _code(term[:, 0], term[:, 2], term[:, 5], layout), _code(e.out_ct, e.in_ct, e.diagonal, layout)
        row, _ = _places(codes, code)
        value = (e.value * (e.period / plan.span)).astype(np.float32)
        one = plan.numbers[mine]
        some = np.zeros(len(mine), np.float32)
        some[row] = value
        place = np.cumsum(~one) - 1
        table = np.zeros((int((~one).sum()), e.period), np.float32)
        vector = ~one[row]
        slot = (e.slot[vector] + term[row[vector], 4]) % e.period
        np.add.at(table.reshape(-1), place[row[vector]] * e.period + slot, value[vector])
        for i, k in enumerate(mine):
            out[k] = float(some[i]) if one[i] else table[place[i]]
    return out


def _alike(keys: IntArray, e: Entries, layout: Layout) -> NDArray[np.bool_]:
    """Per diagonal whether all its values are the same."""
    codes, code = _code(keys[:, 0], keys[:, 2], keys[:, 3], layout), _code(e.out_ct, e.in_ct, e.diagonal, layout)
    row, known = _places(codes, code)
    row, values = row[known], e.value[known].astype(np.float32)
    some = np.zeros(len(keys), np.float32)
    some[row] = values
    alike = np.ones(len(keys), bool)
    alike[row[np.abs(some[row] - values) > _ROUNDING * np.abs(values)]] = False
    return alike


def _thinned(matrix: Matrix, rows: int) -> Matrix:
    """The same with about so many of its rows."""
    step = -(-matrix.shape[0] // rows)
    if step == 1:
        return matrix
    some = matrix[::step].tocoo()
    return sparse.csr_array((some.data, (some.row * step, some.col)), shape=matrix.shape)


def _tally(code: IntArray) -> tuple[IntArray, IntArray]:
    """Distinct codes in order, and how often each occurs."""
    if code.size and code.max() < _DENSE * code.size:
        count = np.bincount(code)
        unique = np.flatnonzero(count)
        return unique, count[unique]
    unique, count = np.unique(code, return_counts=True)
    return unique, count


def _places(codes: IntArray, code: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """Where each code stands among distinct ones, and whether it does."""
    order = np.argsort(codes)
    found = np.minimum(np.searchsorted(codes, code, sorter=order), len(codes) - 1)
    place = order[found]
    return place, codes[place] == code


def _code(out_ct: IntArray, in_ct: IntArray, diagonal: IntArray, layout: Layout) -> IntArray:
    return ((out_ct * layout.ciphertexts + in_ct) * (4 * layout.slots)) + diagonal + 2 * layout.slots


def matvec(
    alg: Algebra,
    sources: Sequence[Sequence[Value]],
    plan: MatVecPlan,
    constants: Sequence[Constant],
    level: int,
) -> list[Value]:
    """Evaluate a plan; the result has the nominal scale at ``level - 1``.

    Args:
        alg: a reading.
        sources: per source its ciphertexts, at ``level`` or above.
        plan: what to do.
        constants: per term its diagonal (see ``diagonals``).
        level: level of the plaintext products.
    """
    results = []
    target = alg.nominal * alg.primes[level]
    by_output: dict[int, dict[int, list[int]]] = {}
    for k, (out_ct, _, _, _, giant, _) in enumerate(plan.terms.tolist()):
        by_output.setdefault(out_ct, {}).setdefault(giant, []).append(k)
    terms = plan.terms.tolist()
    for out_ct in range(len(plan.bias)):
        partial = []
        with alg.matrix_product():
            for giant, members in by_output.get(out_ct, {}).items():
                products = []
                for k in members:
                    _, source, in_ct, baby, _, _ = terms[k]
                    x = alg.rotated(sources[source][in_ct], baby, level)
                    products.append(alg.mul_plain(x, constants[k], target / x.scale))
                partial.append(alg.rotate(alg.sum(products), giant))
            total = alg.sum(partial)
        # Folding in double scale keeps rescaling's rounding noise out of the sums: a fold adds noise too.
        for step in plan.folds:
            total = alg.add(total, alg.rotate(total, step))
        total = alg.rescale(total)
        bias = plan.bias[out_ct]
        if bias.any():
            total = alg.add_plain(total, float(bias[0]) if (bias == bias[0]).all() else bias)
        results.append(total)
    return results
