"""Which replacement for which layer: a Pareto list by dynamic programming, without training.

The problem is OLA's (Lee et al., 2023, arXiv 2310.10349): per layer choose one of several fits so
that the summed error, each layer's mean square error under its own input density times its
sensitivity, is least for a total price, or the price least for a total error. Prices come in as
numbers or as a function of the certificate, so that a planner's cost model stays outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pi_compiler.approx import composite, least_squares, minimax
from pi_compiler.approx.density import Density
from pi_compiler.approx.errors import ApproximationError, DensityError
from pi_compiler.approx.poly import Certificate, Fit, FloatArray, Poly
from pi_compiler.approx.sign import relu_degrees
from pi_compiler.approx.targets import Target

__all__ = ["DEGREES", "Assignment", "Option", "menu", "most_accurate", "pareto", "price_of_depth", "within_error"]

DEGREES: tuple[int, ...] = (1, 2, 3, 5, 7, 11, 15, 23, 31, 47, 63, 127)
"""Degrees that a menu offers by default."""

COMPOSITE_BITS: tuple[float, ...] = (4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0)
"""Precisions of composites that a menu offers for functions with a gate."""

IntArray: TypeAlias = NDArray[np.int64]

_GATED = ("relu", "leaky_relu", "prelu", "abs", "max")
_FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class Option:
    """One replacement for one layer.

    Attributes:
        name: for reports.
        error: what it adds to the total error.
        price: what it adds to the total price.
        fit: the replacement, if there is one.
    """

    name: str
    error: float
    price: float
    fit: Fit | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """One option per layer, and the totals."""

    options: tuple[Option, ...]
    error: float
    price: float

    @property
    def depth(self) -> int:
        """Levels of all replacements together."""
        return sum(o.fit.certificate.depth for o in self.options if o.fit is not None)


def price_of_depth(
    level: float = 1.0, product: float = 0.0, plain_product: float = 0.0
) -> Callable[[Certificate], float]:
    """A price that is linear in levels and products."""
    return lambda c: level * c.depth + product * c.products + plain_product * c.plain_products


def pareto(layers: Sequence[Sequence[Option]], *, resolution: int = 4096) -> tuple[Assignment, ...]:
    """Every assignment that no other beats in both error and price, cheapest first.

    Exact while a partial list stays within ``resolution``; longer ones keep the cheapest of each
    of so many logarithmic error classes, which costs each layer at most one class of accuracy.

    Args:
        layers: the options of each layer.
        resolution: longest list that is kept.

    Raises:
        ApproximationError: a layer without options, or an option whose error or price is
            negative or not finite.
    """
    for i, options in enumerate(layers):
        if not options:
            raise ApproximationError(f"layer {i} has no option to choose from")
        bad = [o.name for o in options if not (math.isfinite(o.error + o.price) and min(o.error, o.price) >= 0.0)]
        if bad:
            raise ApproximationError(f"layer {i}: error or price of {', '.join(bad)} is negative or not finite")
    error, price = np.zeros(1), np.zeros(1)
    history: list[tuple[IntArray, IntArray]] = []
    for options in layers:
        e = (error[:, None] + np.array([o.error for o in options])).ravel()
        p = (price[:, None] + np.array([o.price for o in options])).ravel()
        kept = _undominated(e, p, resolution)
        history.append((kept // len(options), kept % len(options)))
        error, price = e[kept], p[kept]
    return tuple(_trace(layers, history, i, float(error[i]), float(price[i])) for i in range(len(error)))


def _undominated(error: FloatArray, price: FloatArray, resolution: int) -> IntArray:
    """Indices with falling error, in order of price."""
    order = np.lexsort((error, price))
    best = np.minimum.accumulate(error[order])
    first = np.concatenate([[True], best[1:] < best[:-1]])
    kept: IntArray = np.asarray(order[first], dtype=np.int64)
    if len(kept) <= resolution:
        return kept
    size = np.log(np.maximum(error[kept], 1e-300))
    classes = np.floor((size - size.min()) / (size.max() - size.min() + 1e-12) * resolution)
    _, cheapest = np.unique(classes, return_index=True)
    return np.asarray(kept[np.sort(cheapest)], dtype=np.int64)


def _trace(
    layers: Sequence[Sequence[Option]],
    history: Sequence[tuple[IntArray, IntArray]],
    index: int,
    error: float,
    price: float,
) -> Assignment:
    chosen: list[Option] = []
    for options, (before, which) in zip(reversed(layers), reversed(history), strict=True):
        chosen.append(options[int(which[index])])
        index = int(before[index])
    return Assignment(tuple(reversed(chosen)), error, price)


def most_accurate(frontier: Sequence[Assignment], price: float) -> Assignment:
    """The assignment of least error within a price.

    Raises:
        ApproximationError: none is so cheap; the message says what the cheapest costs.
    """
    affordable = [a for a in frontier if a.price <= price]
    if not affordable:
        least = min((a.price for a in frontier), default=math.nan)
        raise ApproximationError(f"no assignment costs at most {price:g}; the cheapest costs {least:g}")
    return min(affordable, key=lambda a: a.error)


def within_error(frontier: Sequence[Assignment], error: float) -> Assignment:
    """The cheapest assignment within a total error.

    Raises:
        ApproximationError: none is so accurate; the message says how far they get.
    """
    accurate = [a for a in frontier if a.error <= error]
    if not accurate:
        least = min((a.error for a in frontier), default=math.nan)
        raise ApproximationError(f"no assignment has an error of at most {error:g}; the best reaches {least:g}")
    return min(accurate, key=lambda a: a.price)


def menu(
    goal: Target,
    density: Density,
    domain: tuple[float, float],
    *,
    price: Callable[[Certificate], float],
    sensitivity: float = 1.0,
    degrees: Sequence[int] = DEGREES,
    bits: Sequence[float] = COMPOSITE_BITS,
    held_out: ArrayLike | None = None,
) -> tuple[Option, ...]:
    """What one layer may choose from: weighted least squares, minimax, and composites for gates.

    The error of an option is the sensitivity times its mean square error over the whole density,
    values outside the domain included, so that what explodes out there is not chosen. Options
    that another one beats in both respects are left out.

    Args:
        goal: the layer's function.
        density: of its inputs.
        domain: interval to fit on.
        price: of a replacement, from its certificate.
        sensitivity: of the network's error to this layer's mean square error.
        degrees: of single polynomials.
        bits: precisions of composites, relative to the domain's bound.
        held_out: values for the certificates' exceedance.

    Raises:
        DomainError: a malformed interval, or a pole inside.
        ApproximationError: a sensitivity that is negative or not finite.
    """
    if not (math.isfinite(sensitivity) and sensitivity >= 0.0):
        raise ApproximationError(f"the sensitivity must be finite and not negative, found {sensitivity}")
    interval = goal.check(domain)
    fits: list[Fit] = []
    for degree in degrees:
        try:
            fits.append(least_squares.weighted(goal, degree, density, domain=interval, floor=_FLOOR, held_out=held_out))
        except DensityError:
            continue
        if 2 < degree <= 63:
            fits.append(minimax.remez(goal, interval, degree, density=density, held_out=held_out))
    if goal.name in _GATED and interval[0] < 0.0 < interval[1]:
        chosen = {relu_degrees(b) for b in bits}
        fits += [composite.gated(goal, interval, degrees=d, density=density, held_out=held_out) for d in sorted(chosen)]
    options = []
    for fit in fits:
        with np.errstate(all="ignore"):
            squares = (goal(density.points) - fit.approx(density.points)) ** 2
        error = sensitivity * float((density.mass * squares).sum())
        if math.isfinite(error):
            options.append(Option(_name(fit), error, float(price(fit.certificate)), fit))
    if not options:
        raise ApproximationError(f"no replacement of {goal.name} on [{interval[0]:g}, {interval[1]:g}] is usable")
    kept = _undominated(np.array([o.error for o in options]), np.array([o.price for o in options]), len(options))
    return tuple(options[int(i)] for i in kept)


def _name(fit: Fit) -> str:
    if isinstance(fit.approx, Poly):
        return f"{fit.method} of degree {fit.approx.degree}"
    return f"{fit.method}, {' '.join(fit.notes)}"
