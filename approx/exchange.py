"""Remez's exchange: best uniform approximation from a span of Chebyshev polynomials.

The method is Remez's second algorithm (Trefethen, Approximation Theory and Approximation
Practice, chapter 10; for several intervals and odd bases Lee, Lee, No and Kim, IEEE TIFS 2021,
section 3) with the safeguards that practice asks for: the error is searched on a grid that follows
the current reference so that no extremum is missed, there are several initial references and a
linear program as the last one, and mpmath where double precision does not level the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import mpmath
import numpy as np
from scipy import optimize

from pi_compiler.approx.poly import Domain, FloatArray
from pi_compiler.approx.targets import Function

__all__ = ["Levelled", "Precision", "exchange"]

Precision: TypeAlias = Literal["auto", "double", "mpmath"]

_LEVEL = 1e-7
_ROUNDING = 4e-15
_ITERATIONS = 60
_PER_GAP = np.sin(0.5 * np.pi * np.linspace(0.0, 1.0, 17)) ** 2
_DIGITS = 60


@dataclass(frozen=True, slots=True)
class Levelled:
    """What the exchange ended with.

    Attributes:
        coef: Chebyshev coefficients on the hull, all indices from 0.
        error: largest weighted error that was seen.
        converged: whether the error is equal at all points of the reference, to 1e-7.
        iterations: exchanges made, over all starts.
        precise: whether mpmath was needed.
    """

    coef: tuple[float, ...]
    error: float
    converged: bool
    iterations: int
    precise: bool


class _Solver(Protocol):
    """Interpolation with a levelled error, and the error elsewhere in units of that level."""

    def level(self, reference: FloatArray) -> float: ...

    def errors(self, x: FloatArray) -> FloatArray: ...

    def coefficients(self) -> FloatArray: ...


class _Double:
    def __init__(self, function: Function, weight: Function, indices: FloatArray, hull: Domain) -> None:
        self.function, self.weight, self.indices, self.hull = function, weight, indices, hull
        self.coef = np.zeros(len(indices), dtype=np.float64)
        self.unit = 1.0

    def matrix(self, x: FloatArray) -> FloatArray:
        t = (2.0 * x - self.hull[0] - self.hull[1]) / (self.hull[1] - self.hull[0])
        return np.asarray(np.cos(np.arccos(np.clip(t, -1.0, 1.0))[:, None] * self.indices))

    def level(self, reference: FloatArray) -> float:
        signs = (-1.0) ** np.arange(len(reference)) / self.weight(reference)
        system = np.column_stack([self.matrix(reference), signs])
        try:
            solution = np.linalg.solve(system, self.function(reference))
        except np.linalg.LinAlgError:
            solution = np.linalg.lstsq(system, self.function(reference), rcond=None)[0]
        self.coef = np.asarray(solution[:-1], dtype=np.float64)
        self.unit = max(abs(float(solution[-1])), 1e-300)
        return self.unit

    def errors(self, x: FloatArray) -> FloatArray:
        return np.asarray(self.weight(x) * (self.function(x) - self.matrix(x) @ self.coef) / self.unit)

    def coefficients(self) -> FloatArray:
        return self.coef


class _Precise:
    """The same in mpmath; points and results are doubles, everything between is not."""

    def __init__(
        self, function: Callable[[mpmath.mpf], mpmath.mpf], weight: Function, indices: FloatArray, hull: Domain
    ) -> None:
        self.function, self.weight, self.hull = function, weight, hull
        self.indices = [int(i) for i in indices]
        self.coef: list[mpmath.mpf] = []
        self.unit = mpmath.mpf(1)

    def row(self, x: float) -> list[mpmath.mpf]:
        low, high = mpmath.mpf(self.hull[0]), mpmath.mpf(self.hull[1])
        t = (2 * mpmath.mpf(x) - low - high) / (high - low)
        values, last = [mpmath.mpf(1), t], self.indices[-1]
        while len(values) <= last:
            values.append(2 * t * values[-1] - values[-2])
        return [values[i] for i in self.indices]

    def level(self, reference: FloatArray) -> float:
        weights = self.weight(reference)
        with mpmath.workdps(_DIGITS):
            rows = [
                [*self.row(float(x)), mpmath.mpf((-1) ** i) / mpmath.mpf(float(w))]
                for i, (x, w) in enumerate(zip(reference, weights, strict=True))
            ]
            right = [self.function(mpmath.mpf(float(x))) for x in reference]
            solution = mpmath.lu_solve(mpmath.matrix(rows), mpmath.matrix(right))
            self.coef = [solution[i] for i in range(len(self.indices))]
            self.unit = max(abs(solution[len(self.indices)]), mpmath.mpf("1e-300"))
        return float(self.unit)

    def errors(self, x: FloatArray) -> FloatArray:
        with mpmath.workdps(_DIGITS):
            rest = [
                float((self.function(mpmath.mpf(float(p))) - mpmath.fdot(self.row(float(p)), self.coef)) / self.unit)
                for p in x
            ]
        return np.asarray(self.weight(x) * np.array(rest))

    def coefficients(self) -> FloatArray:
        return np.array([float(c) for c in self.coef])


def exchange(
    function: Function,
    intervals: Sequence[Domain],
    indices: Sequence[int],
    hull: Domain,
    *,
    weight: Function = np.ones_like,
    points: Sequence[float] = (),
    precise: Callable[[mpmath.mpf], mpmath.mpf] | None = None,
    precision: Precision = "auto",
    start: FloatArray | None = None,
) -> Levelled:
    """The best approximation from the span of some Chebyshev polynomials.

    Args:
        function: vectorized.
        intervals: ascending and disjoint; the error counts there.
        indices: ascending Chebyshev indices that may be used, on the hull.
        hull: the interval that the basis is mapped from; it contains the others.
        weight: positive; the largest weight * |error| is minimized.
        points: where the error must be looked at besides the grid: kinks.
        precise: the function for mpmath, if known.
        precision: "auto" uses mpmath where double precision does not level the error.
        start: an initial reference to try first, len(indices) + 1 ascending points.
    """
    which = np.asarray(indices, dtype=np.float64)
    scale = max(float(np.abs(function(np.linspace(*i, 33))).max()) for i in intervals)
    noise = _ROUNDING * len(which) * scale
    best: Levelled | None = None
    spent = 0
    starts = [s for s in (start,) if s is not None and len(s) == len(which) + 1]
    double = _Double(function, weight, which, hull)
    tries = _starts(intervals, len(which) + 1)
    if intervals[0][0] > hull[0] + 0.4 * (hull[1] - hull[0]):
        tries[:2] = tries[1::-1]  # one half of a symmetric basis: its extrema crowd at the outer end
    for make in (*(lambda s=s: s for s in starts), *tries, None):
        reference = _programmed(double, intervals, points) if make is None else make()
        if reference is None:
            continue
        found = _iterate(double, intervals, points, reference, noise)
        spent += found.iterations
        if best is None or found.error < best.error:
            best = found
        if found.converged:
            break
    assert best is not None
    if precise is not None and (precision == "mpmath" or (precision == "auto" and not best.converged)):
        solver = _Precise(precise, weight, which, hull)
        found = _iterate(solver, intervals, points, _spread(intervals, _crowded(len(which) + 1)), 0.0)
        spent += found.iterations
        if found.converged:
            best = Levelled(found.coef, found.error, True, spent, True)
    full = np.zeros(int(which[-1]) + 1)
    full[which.astype(int)] = best.coef
    return Levelled(tuple(float(c) for c in full), best.error, best.converged, spent, best.precise)


def _crowded(count: int) -> FloatArray:
    """Fractions of a length, crowding at both ends."""
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * np.linspace(0.0, 1.0, count)))


def _spread(intervals: Sequence[Domain], fractions: FloatArray) -> FloatArray:
    """Points at these fractions of the intervals' total length."""
    ends = np.concatenate([[0.0], np.cumsum([b - a for a, b in intervals])])
    s = fractions * ends[-1]
    piece = np.clip(np.searchsorted(ends, s, side="right") - 1, 0, len(intervals) - 1)
    return np.asarray(np.array([i[0] for i in intervals])[piece] + s - ends[piece])


def _starts(intervals: Sequence[Domain], count: int) -> list[Callable[[], FloatArray | None]]:
    """Initial references: crowding at all ends, at the end next to zero, and evenly spread."""

    def logarithmic() -> FloatArray | None:
        if len(intervals) > 1 or intervals[0][0] <= 0.0:
            return None
        return np.asarray(np.geomspace(*intervals[0], count))

    even = np.linspace(0.0, 1.0, count)
    return [
        lambda: _spread(intervals, _crowded(count)),
        lambda: _spread(intervals, np.asarray(np.sin(0.5 * np.pi * even))),
        logarithmic,
        lambda: _spread(intervals, even**2),
        lambda: _spread(intervals, even),
    ]


def _programmed(solver: _Double, intervals: Sequence[Domain], points: Sequence[float]) -> FloatArray | None:
    """A reference from the linear program on a grid, for when exchanges cycle."""
    size = len(solver.indices)
    ends = [np.linspace(0.0, 1.0, 24 * size // len(intervals) + 8) for _ in intervals]
    x = np.concatenate([a + (b - a) * np.sin(0.5 * np.pi * s) ** 2 for (a, b), s in zip(intervals, ends, strict=True)])
    rows, w = solver.matrix(x), 1.0 / solver.weight(x)
    values = solver.function(x)
    result = optimize.linprog(
        np.concatenate([np.zeros(size), [1.0]]),
        A_ub=np.block([[rows, -w[:, None]], [-rows, -w[:, None]]]),
        b_ub=np.concatenate([values, -values]),
        bounds=[(None, None)] * size + [(0.0, None)],
        method="highs",
    )
    if result.status != 0:
        return None
    solver.coef, solver.unit = result.x[:-1], max(float(result.x[-1]), 1e-300)
    places, errors = _extrema(solver, intervals, x, points)
    return _alternating(places, errors, size + 1)


def _iterate(
    solver: _Solver, intervals: Sequence[Domain], points: Sequence[float], reference: FloatArray, noise: float
) -> Levelled:
    """Exchanges from one reference; errors that differ by no more than the noise count as level."""
    best = Levelled((), math.inf, False, 0, False)
    for iteration in range(1, _ITERATIONS + 1):
        level = solver.level(reference)
        places, errors = _extrema(solver, intervals, reference, points)
        top = float(np.abs(errors).max())
        converged = top <= 1.0 + _LEVEL + noise / level
        if top * level < best.error or converged:
            best = Levelled(tuple(solver.coefficients()), top * level, converged, iteration, False)
        if converged or not math.isfinite(top):
            break
        chosen = _alternating(places, errors, len(reference))
        if chosen is None:
            chosen = _insert(reference, solver.errors(reference), float(places[np.abs(errors).argmax()]), errors)
        if np.array_equal(chosen, reference):
            break
        reference = chosen
    return Levelled(best.coef, best.error, best.converged, iteration, False)


def _extrema(
    solver: _Solver, intervals: Sequence[Domain], reference: FloatArray, points: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    """Local extrema of the error, interval ends included, refined by parabolas."""
    places, values = [], []
    for low, high in intervals:
        inside = [r for r in (*reference, *points) if low < r < high]
        knots = np.unique(np.array([low, *inside, high]))
        grid = np.unique((knots[:-1, None] + np.diff(knots)[:, None] * _PER_GAP).ravel())
        e = solver.errors(grid)
        size = np.abs(e)
        padded = np.concatenate([[-1.0], size, [-1.0]])
        top = np.flatnonzero((size >= padded[:-2]) & (size >= padded[2:]))
        x, peak = grid[top], e[top]
        inner = (top > 0) & (top < len(grid) - 1)
        i = top[inner]
        moved = _vertex(grid[i - 1], grid[i], grid[i + 1], e[i - 1], e[i], e[i + 1])
        better = solver.errors(moved)
        gain = np.abs(better) > np.abs(peak[inner])
        x[inner] = np.where(gain, moved, x[inner])
        peak[inner] = np.where(gain, better, peak[inner])
        places.append(x)
        values.append(peak)
    return np.concatenate(places), np.concatenate(values)


def _vertex(
    x0: FloatArray, x1: FloatArray, x2: FloatArray, y0: FloatArray, y1: FloatArray, y2: FloatArray
) -> FloatArray:
    """Abscissa of the parabola through three points, kept between the outer two."""
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    with np.errstate(all="ignore"):
        x = x1 - 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / (left - right)
    return np.asarray(np.where(np.isfinite(x) & (x > x0) & (x < x2), x, x1))


def _alternating(places: FloatArray, errors: FloatArray, count: int) -> FloatArray | None:
    """``count`` extrema of alternating sign, as large as possible; None if there are fewer."""
    kept: list[int] = []
    for i in range(len(places)):
        if errors[i] == 0.0:
            continue
        if kept and (errors[i] > 0.0) == (errors[kept[-1]] > 0.0):
            if abs(errors[i]) > abs(errors[kept[-1]]):
                kept[-1] = i
        else:
            kept.append(i)
    while len(kept) > count:
        size = np.abs(errors[kept])
        if len(kept) == count + 1:
            kept.pop(0 if size[0] < size[-1] else -1)
            continue
        pair = int(np.maximum(size[:-1], size[1:]).argmin())
        if min(size[0], size[-1]) <= max(size[pair], size[pair + 1]):
            kept.pop(0 if size[0] < size[-1] else -1)
        else:
            del kept[pair : pair + 2]
    return places[kept] if len(kept) == count else None


def _insert(reference: FloatArray, at: FloatArray, x: float, errors: FloatArray) -> FloatArray:
    """One point exchanged so that signs keep alternating: the fallback of the second algorithm."""
    sign = np.sign(errors[np.abs(errors).argmax()])
    signs = np.sign(at)
    i = int(np.searchsorted(reference, x))
    result = reference.copy()
    if i == 0:
        if signs[0] == sign:
            result[0] = x
        else:
            result = np.concatenate([[x], reference[:-1]])
    elif i == len(reference):
        if signs[-1] == sign:
            result[-1] = x
        else:
            result = np.concatenate([reference[1:], [x]])
    else:
        result[i if signs[i] == sign else i - 1] = x
    return result
