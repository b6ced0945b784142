"""Where the inputs of an activation lie: an empirical density as weighted points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from pi_compiler.approx.errors import DensityError
from pi_compiler.approx.poly import Domain, FloatArray, check_domain

__all__ = ["Density"]

_BINS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Density:
    """Points and the mass that each stands for; the mass sums to 1.

    Attributes:
        points: ascending, finite.
        mass: positive.
    """

    points: FloatArray
    mass: FloatArray

    @classmethod
    def of_samples(cls, samples: ArrayLike) -> Density:
        """From observed values; more than 4096 distinct ones are gathered into so many bins.

        Raises:
            DensityError: no values, or one that is not finite.
        """
        values = np.asarray(samples, dtype=np.float64).ravel()
        if values.size == 0:
            raise DensityError("a density needs at least one sample, found none")
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise DensityError(f"{count} of {values.size} samples are not finite numbers")
        points, counts = np.unique(values, return_counts=True)
        if points.size > _BINS:
            edges = np.linspace(points[0], points[-1], _BINS + 1)
            which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _BINS - 1)
            total = np.bincount(which, minlength=_BINS)
            centers = np.bincount(which, weights=values, minlength=_BINS)
            points, counts = centers[total > 0] / total[total > 0], total[total > 0]
        return cls(points, counts / values.size)

    @classmethod
    def of_histogram(cls, edges: ArrayLike, mass: ArrayLike) -> Density:
        """From a histogram, uniform within each bin (three Gauss points per bin).

        Args:
            edges: n + 1 ascending bin edges.
            mass: n counts or masses, not negative; any total.

        Raises:
            DensityError: malformed, or without mass.
        """
        e, m = np.asarray(edges, dtype=np.float64), np.asarray(mass, dtype=np.float64)
        faults = []
        if e.ndim != 1 or m.ndim != 1 or e.size != m.size + 1 or m.size == 0:
            raise DensityError(f"{m.size} masses need {m.size + 1} edges (at least two), found {e.size}")
        if not (np.isfinite(e).all() and np.isfinite(m).all()):
            faults.append("an edge or a mass is not finite")
        elif (np.diff(e) <= 0.0).any():
            faults.append("edges do not ascend")
        if (m < 0.0).any():
            faults.append("a mass is negative")
        if not faults and not m.sum() > 0.0:
            faults.append("there is no mass")
        if faults:
            raise DensityError(f"bad histogram: {'; '.join(faults)}")
        nodes, weights = np.polynomial.legendre.leggauss(3)
        keep = m > 0.0
        center, half = 0.5 * (e[1:] + e[:-1])[keep], 0.5 * np.diff(e)[keep]
        points = (center[:, None] + half[:, None] * nodes).ravel()
        return cls(points, (m[keep, None] * weights / (2.0 * m.sum())).ravel())

    @classmethod
    def uniform(cls, domain: tuple[float, float], points: int = 1024) -> Density:
        """Uniform on an interval, as a composite Gauss rule."""
        low, high = check_domain(domain)
        return cls.of_histogram(np.linspace(low, high, max(1, points // 3) + 1), np.ones(max(1, points // 3)))

    @classmethod
    def normal(cls, mean: float, std: float, points: int = 1536) -> Density:
        """Gaussian, cut at 8 standard deviations.

        Raises:
            DensityError: the standard deviation is not positive, or something is not finite.
        """
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0.0):
            raise DensityError(f"a Gaussian needs a finite mean and a positive deviation, found {mean} and {std}")
        z = np.linspace(-8.0, 8.0, points // 3 + 1)
        return cls.of_histogram(mean + std * z, np.diff(special.ndtr(z)))

    @property
    def span(self) -> Domain:
        """Smallest and largest point."""
        return float(self.points[0]), float(self.points[-1])

    def within(self, domain: Domain) -> Density:
        """The part on an interval, normalized.

        Raises:
            DensityError: no mass there.
        """
        inside = (self.points >= domain[0]) & (self.points <= domain[1])
        total = float(self.mass[inside].sum())
        if not total > 0.0:
            raise DensityError(
                f"the density has no mass on [{domain[0]:g}, {domain[1]:g}]; it lies on "
                f"[{self.span[0]:g}, {self.span[1]:g}]"
            )
        return Density(self.points[inside], self.mass[inside] / total)

    def mixed(self, other: Density, share: float) -> Density:
        """``1 - share`` of this density and ``share`` of another."""
        points = np.concatenate([self.points, other.points])
        mass = np.concatenate([(1.0 - share) * self.mass, share * other.mass])
        order = np.argsort(points, kind="stable")
        return Density(points[order], mass[order])
