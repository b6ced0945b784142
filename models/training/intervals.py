"""How sure paired differences between two networks on the same samples are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["Estimate", "crossed_bootstrap", "mcnemar", "paired_drop"]

Right = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its confidence interval."""

    value: float
    low: float
    high: float


def paired_drop(before: Right, after: Right, confidence: float = 0.95) -> Estimate:
    """How much accuracy fell, in an adjusted Wald interval (Bonett and Price, 2012): one pseudo-sample each way.

    Unlike the plain interval it has a width where no sample changed.

    Args:
        before: (n,) whether each sample was right.
        after: (n,) the same samples, the other network.
        confidence: of the interval.
    """
    lost, won, n = int((before & ~after).sum()), int((~before & after).sum()), before.size
    p, q = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * float(np.sqrt((p + q - (p - q) ** 2) / (n + 2)))
    return Estimate((lost - won) / n, max(-1.0, p - q - half), min(1.0, p - q + half))


def mcnemar(before: Right, after: Right) -> float:
    """Exact two-sided McNemar test: how likely so one-sided a change is if neither network is better."""
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    return float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def crossed_bootstrap(
    statistic: Callable[..., float],
    outcomes: Sequence[Right],
    strata: NDArray[np.int64],
    *,
    draws: int = 2_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Percentile interval where several networks, one a seed, answered the same samples.

    Seeds and samples are both drawn again, each with replacement (Owen, 2007, section 4): the interval
    covers another training as well as other samples, and is rather too wide than too narrow.

    Args:
        statistic: of ``outcomes`` drawn again and, at last, their strata.
        outcomes: each (seeds, samples), paired in both axes.
        strata: (samples,) each stratum keeps its number of samples.
        draws: how often.
        seed: of the drawing.
        confidence: of the interval.
    """
    rng = np.random.default_rng(seed)
    seeds = len(outcomes[0])
    members = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    found = np.empty(draws)
    for i in range(draws):
        who = rng.integers(0, seeds, seeds)
        which = np.concatenate([m[rng.integers(0, len(m), len(m))] for m in members])
        found[i] = statistic(*(o[np.ix_(who, which)] for o in outcomes), strata[which])
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Estimate(float(statistic(*outcomes, strata)), float(low), float(high))
