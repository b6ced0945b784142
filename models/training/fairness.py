"""Who pays for fewer ReLUs: accuracy per group against the all-ReLU network, and what may explain it.

Groups are classes or any column of the data. Every figure has its interval; drops are paired, sample by
sample. A sample without a finite answer is wrong.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pi_compiler.models.data import Dataset
from pi_compiler.models.training.geometry import boundary_distances, gradient_norm, top_curvature
from pi_compiler.models.training.intervals import Right, mcnemar, paired_drop
from pi_compiler.report.statistics import wilson

__all__ = ["fairness", "grouped", "outcomes"]

_BATCH = 500
Json = dict[str, object]


def grouped(data: Dataset) -> Dataset:
    """The same data with groups: those it has, else its classes."""
    if data.groups is not None:
        return data
    names = tuple(str(c) for c in range(int(data.labels.max()) + 1))
    return replace(data, groups=data.labels, group_names=names)


def outcomes(model: nn.Module, data: Dataset) -> Right:
    """Whether each sample (n,) is answered right; one without a finite answer is not."""
    model.eval()
    right = np.zeros(len(data), dtype=np.bool_)
    with torch.no_grad():
        for start in range(0, len(data), _BATCH):
            rows = slice(start, start + _BATCH)
            logits = model(torch.from_numpy(data.x[rows])).flatten(1)
            finite = torch.isfinite(logits).all(1)
            right[rows] = (finite & (logits.argmax(1) == torch.from_numpy(data.labels[rows]))).numpy()
    return right


def fairness(model: nn.Module, baseline: nn.Module, data: Dataset, curvature: bool = False) -> Json:
    """The record's ``fairness``: one entry a group, and how far groups lie apart.

    Args:
        model: the reduced network.
        baseline: the all-ReLU network.
        data: labeled samples; classes are the groups of data without any.
        curvature: also the top Hessian eigenvalue per group; takes many backward passes.

    Returns:
        ``groups``: name, images, accuracy with low and high (95 %, Wilson), baseline_accuracy, drop with
        drop_low and drop_high (95 %, paired), p_value (McNemar), and gradient_norm, boundary_distance (mean
        probability margin) and boundary_radius (mean input distance); with the prefix ``baseline_`` those of
        the all-ReLU network, by which the drop may be foreseen. None where a figure is not finite. ``gap``:
        accuracy (best less worst group), baseline_accuracy (the same of the baseline), drop (largest less
        smallest), with worst and least, the two groups' names, and worst_accuracy.
    """
    data = grouped(data)
    before, after = outcomes(baseline, data), outcomes(model, data)
    rows = []
    for number, name in enumerate(data.group_names):
        members = np.flatnonzero(data.groups == number)
        if len(members):
            part, row = data.rows(members), _row(name, before[members], after[members])
            rows.append(row | _shape("", model, part, curvature) | _shape("baseline_", baseline, part, curvature))
    return {"groups": rows, "gap": _gap(rows)}


def _row(name: str, before: Right, after: Right) -> Json:
    accuracy, drop = float(after.mean()), paired_drop(before, after)
    low, high = wilson(accuracy, len(after))
    return {
        "name": name,
        "images": len(after),
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "baseline_accuracy": float(before.mean()),
        "drop": drop.value,
        "drop_low": drop.low,
        "drop_high": drop.high,
        "p_value": mcnemar(before, after),
    }


def _shape(prefix: str, model: nn.Module, part: Dataset, curvature: bool) -> Json:
    distances = boundary_distances(model, part)
    found = {
        "gradient_norm": gradient_norm(model, part),
        "boundary_distance": float(distances.margin.mean()),
        "boundary_radius": float(distances.radius.mean()),
    }
    if curvature:
        found["curvature"] = top_curvature(model, part.take(_BATCH))
    return {prefix + name: value if math.isfinite(value) else None for name, value in found.items()}


def _gap(rows: list[Json]) -> Json:
    def column(name: str) -> list[float]:
        return [float(r[name]) for r in rows]  # type: ignore[arg-type]

    drops, accuracies = column("drop"), column("accuracy")
    return {
        "accuracy": max(accuracies) - min(accuracies),
        "baseline_accuracy": max(column("baseline_accuracy")) - min(column("baseline_accuracy")),
        "drop": max(drops) - min(drops),
        "worst": rows[int(np.argmax(drops))]["name"],
        "least": rows[int(np.argmin(drops))]["name"],
        "worst_accuracy": min(accuracies),
    }
