"""What a report says about one budget of one curve: figures over all its seeds, as JSON and for tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pi_compiler.report.records import Count, Json, Reduced, Reduction, mpc_costs
from pi_compiler.report.statistics import ClassGap, Spread, mean_counts, spread, wilson

__all__ = ["Fraction", "Point", "original_fractions", "points", "to_json"]


@dataclass(frozen=True, slots=True)
class Fraction:
    """Accuracy in one class or group with Wilson's 95 % interval."""

    name: str
    images: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Point:
    """One budget of one curve.

    Attributes:
        budget: ReLUs asked for.
        relu_count: ReLUs left, the largest of the seeds.
        seeds: the seeds.
        accuracy: on the test split.
        validation: on the validation split, mean.
        classes: per class, mean over seeds.
        groups: per group, where the data have any.
        class_gap: how unequal classes fare, None for fewer than two classes.
        group_gap: the same of groups.
        nan_images: test images whose answer is not finite, the most of the seeds.
        out_of_range_images: test images with a value outside an interval, the most of the seeds.
        out_of_range: share of elements outside, in the worst layer of the worst seed.
        max_abs: largest absolute value before an activation, over all seeds.
        tensors: tensors that still hold a ReLU, the most of the seeds,
        of: of so many.
        seconds: to train, mean.
        ckks: predicted figures, means over seeds; ``{"refused": why}`` if a seed's plan was; None if not asked.
        mpc: predicted figures by protocol and network, means over seeds.
    """

    budget: int
    relu_count: int
    seeds: tuple[int, ...]
    accuracy: Spread
    validation: float
    classes: tuple[Fraction, ...]
    groups: tuple[Fraction, ...]
    class_gap: ClassGap | None
    group_gap: ClassGap | None
    nan_images: int
    out_of_range_images: int
    out_of_range: float
    max_abs: float
    tensors: int
    of: int
    seconds: float
    ckks: Json | None
    mpc: Mapping[str, Mapping[str, Json]]


def points(r: Reduction) -> dict[tuple[str, str, str], list[Point]]:
    """All points by method, kind and granularity; budgets fall."""
    return {curve: [_point(r, models) for models in budgets.values()] for curve, budgets in r.curves().items()}


def original_fractions(counts: Sequence[Count]) -> tuple[Fraction, ...]:
    """The original's accuracy per class or group."""
    return _fractions([counts])


def to_json(r: Reduction) -> Json:
    """The whole reduction for machines."""
    return {
        "model": r.model,
        "model_sha256": r.sha256,
        "dataset": r.dataset,
        "quoted": r.quoted,
        "relu_total": r.relu_total,
        "original": {
            "accuracy": r.original.accuracy,
            "interval": wilson(r.original.accuracy, r.original.images),
            "images": r.original.images,
            "nan_images": r.original.nan_images,
            "validation": r.original_validation.accuracy,
            "classes": [dataclasses.asdict(f) for f in original_fractions(r.original.classes)],
            "groups": [dataclasses.asdict(f) for f in original_fractions(r.original.groups)],
            "ckks": r.original_ckks,
            "mpc": r.original_mpc,
        },
        "curves": [
            {
                "method": method,
                "kind": kind,
                "granularity": granularity,
                "points": [dataclasses.asdict(p) for p in found],
            }
            for (method, kind, granularity), found in points(r).items()
        ],
    }


def _point(r: Reduction, models: Sequence[Reduced]) -> Point:
    tests = [m.test for m in models]
    classes, groups = _fractions([t.classes for t in tests]), _fractions([t.groups for t in tests])
    return Point(
        budget=models[0].budget,
        relu_count=max(m.relu_count for m in models),
        seeds=tuple(m.seed for m in models),
        accuracy=spread([t.accuracy for t in tests], tests[0].images),
        validation=_mean([m.validation.accuracy for m in models]),
        classes=classes,
        groups=groups,
        class_gap=_gap(classes, original_fractions(r.original.classes)),
        group_gap=_gap(groups, original_fractions(r.original.groups)),
        nan_images=max(t.nan_images for t in tests),
        out_of_range_images=max(t.out_of_range_images for t in tests),
        out_of_range=max((s.out_of_range for t in tests for s in t.seen), default=0.0),
        max_abs=max((s.max_abs for t in tests for s in t.seen), default=0.0),
        tensors=max(sum(layer.kept > 0 for layer in m.layers) for m in models),
        of=len(models[0].layers),
        seconds=_mean([m.seconds for m in models]),
        ckks=_ckks(models),
        mpc=_mpc(models),
    )


def _fractions(seeds: Sequence[Sequence[Count]]) -> tuple[Fraction, ...]:
    return tuple(Fraction(name, images, f, *ends) for name, images, f, ends in mean_counts(seeds))


def _gap(now: Sequence[Fraction], before: Sequence[Fraction]) -> ClassGap | None:
    """Compared where both have images; names tell who is who."""
    known = {f.name: f.accuracy for f in before if f.images}
    pairs = [(f.name, f.accuracy) for f in now if f.images and f.name in known]
    return ClassGap.of(pairs, [(name, known[name]) for name, _ in pairs]) if len(pairs) > 1 else None


def _ckks(models: Sequence[Reduced]) -> Json | None:
    plans = [m.ckks for m in models if m.ckks is not None]
    if not plans:
        return None
    refused = [p for p in plans if "refused" in p]
    return refused[0] if refused else _averaged(plans)


def _mpc(models: Sequence[Reduced]) -> dict[str, dict[str, Json]]:
    costs = [found for m in models if (found := mpc_costs(m.mpc))]
    if not costs:
        return {}
    return {
        protocol: {
            network: _averaged([c[protocol][network] for c in costs if network in c.get(protocol, {})])
            for network in networks
        }
        for protocol, networks in costs[0].items()
    }


def _averaged(seeds: Sequence[Json]) -> Json:
    """Numbers become means, everything else is the first seed's."""
    found: dict[str, object] = {}
    for key, first in seeds[0].items():
        numbers = [v for s in seeds if isinstance(v := s.get(key), int | float) and not isinstance(v, bool)]
        found[key] = _mean(numbers) if len(numbers) == len(seeds) else first
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
