"""The few statistics that reports quote: intervals of fractions, means over seeds, gaps between classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pi_compiler.report.records import Count

__all__ = ["CONFIDENCE_Z", "ClassGap", "Spread", "mean_counts", "spread", "wilson"]

CONFIDENCE_Z = 1.959963984540054
"""97.5th percentile of the standard normal: intervals hold with 95 % confidence."""


def wilson(fraction: float, images: int, z: float = CONFIDENCE_Z) -> tuple[float, float]:
    """Confidence interval of a binomial fraction (Wilson, 1927); inside [0, 1] also at its ends.

    Args:
        fraction: right answers among ``images``.
        images: how many; none tell nothing.
        z: quantile of the standard normal.
    """
    if images == 0:
        return 0.0, 1.0
    shrink = 1.0 + z * z / images
    middle = (fraction + z * z / (2 * images)) / shrink
    half = z / shrink * math.sqrt(fraction * (1 - fraction) / images + z * z / (4 * images * images))
    # At the ends rounding would leave [0, 1], or the fraction outside its own interval.
    return max(0.0, min(middle - half, fraction)), min(1.0, max(middle + half, fraction))


@dataclass(frozen=True, slots=True)
class Spread:
    """Values over seeds.

    Attributes:
        mean: their mean.
        deviation: their standard deviation (n - 1), None for one value.
        low: lower end of the error bar: a standard deviation, or Wilson's for one value.
        high: its upper end.
        count: how many values.
    """

    mean: float
    deviation: float | None
    low: float
    high: float
    count: int


def spread(fractions: Sequence[float], images: int) -> Spread:
    """Accuracies of several seeds on the same ``images``."""
    mean = sum(fractions) / len(fractions)
    if len(fractions) == 1:
        return Spread(mean, None, *wilson(mean, images), 1)
    deviation = math.sqrt(sum((f - mean) ** 2 for f in fractions) / (len(fractions) - 1))
    return Spread(mean, deviation, mean - deviation, mean + deviation, len(fractions))


def mean_counts(seeds: Sequence[Sequence[Count]]) -> list[tuple[str, int, float, tuple[float, float]]]:
    """Per class: name, images, accuracy over seeds, and Wilson's interval for its images.

    Seeds see the same images, so that they do not count as more of them.
    """
    found = []
    for place, first in enumerate(seeds[0]):
        right = sum(s[place].correct for s in seeds) / len(seeds)
        fraction = right / first.images if first.images else 0.0
        found.append((first.name, first.images, fraction, wilson(fraction, first.images)))
    return found


@dataclass(frozen=True, slots=True)
class ClassGap:
    """How unequal classes or groups fare.

    Attributes:
        gap: highest minus lowest accuracy.
        worst: the class with the lowest accuracy,
        worst_accuracy: which is this.
        hit: the class that lost most against the original,
        drop: so much.
    """

    gap: float
    worst: str
    worst_accuracy: float
    hit: str
    drop: float

    @staticmethod
    def of(accuracy: Sequence[tuple[str, float]], original: Sequence[tuple[str, float]]) -> ClassGap:
        """From accuracies by class, in the same order, classes without images left out."""
        worst = min(accuracy, key=lambda a: a[1])
        best = max(a for _, a in accuracy)
        drops = [(name, before - after) for (name, after), (_, before) in zip(accuracy, original, strict=True)]
        hit = max(drops, key=lambda d: d[1])
        return ClassGap(best - worst[1], worst[0], worst[1], hit[0], hit[1])
