"""Who pays for fewer ReLUs: accuracy per group against the all-ReLU network, and what may explain it.

Groups are classes or any column of the data. Every figure has its interval; drops are paired, sample by
sample. A sample without a finite answer is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pi_compiler.errors import ParameterError
from pi_compiler.ir.graph import IntArray
from pi_compiler.models.data import Dataset
from pi_compiler.models.training.engine import Epoch, Settings, fit
from pi_compiler.models.training.geometry import boundary_distances, gradient_norm, top_curvature
from pi_compiler.models.training.graph_module import GraphModule
from pi_compiler.models.training.intervals import Estimate, Right, accuracy_interval, mcnemar, paired_drop

__all__ = ["Groups", "by_class", "fairness", "outcomes"]

_BATCH = 500
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Groups:
    """To which group each sample belongs.

    Attributes:
        names: of the groups.
        numbers: (n,) each sample's place in ``names``; -1 is no group.

    Raises:
        ParameterError: a number without a name.
    """

    names: tuple[str, ...]
    numbers: IntArray

    def __post_init__(self) -> None:
        if self.numbers.size and not -1 <= int(self.numbers.min()) <= int(self.numbers.max()) < len(self.names):
            low, high = int(self.numbers.min()), int(self.numbers.max())
            raise ParameterError(f"group numbers run from {low} to {high}, there are {len(self.names)} names")

    def present(self) -> list[tuple[str, NDArray[np.bool_]]]:
        """Groups that have samples: name, and which samples."""
        found = [(name, np.asarray(self.numbers == i)) for i, name in enumerate(self.names)]
        return [(name, members) for name, members in found if members.any()]


def by_class(data: Dataset) -> Groups:
    """The classes as groups."""
    return Groups(tuple(str(c) for c in range(int(data.labels.max()) + 1)), data.labels)


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


def fairness(model: nn.Module, baseline: nn.Module, data: Dataset, groups: Groups, curvature: bool = False) -> Json:
    """The record's ``fairness``: one entry a group, and how far groups lie apart.

    Args:
        model: the reduced network.
        baseline: the all-ReLU network.
        data: labeled samples.
        groups: of these samples.
        curvature: also the top Hessian eigenvalue per group; takes many backward passes.

    Returns:
        ``groups``: name, images, accuracy with low and high (95 %, Wilson), baseline_accuracy, drop with
        drop_low and drop_high (95 %, paired), p_value (McNemar), and for both networks gradient_norm,
        boundary_distance (mean probability margin) and boundary_radius (mean input distance), those of the
        baseline with the prefix ``baseline_``. ``gap``: accuracy (best less worst group), baseline_accuracy
        (the same of the baseline), drop (largest less smallest), with worst and least, the two groups'
        names, and worst_accuracy.

    Raises:
        ParameterError: groups of other samples, or none.
    """
    if groups.numbers.shape != data.labels.shape or not groups.present():
        raise ParameterError(f"{len(groups.numbers)} group numbers for {len(data)} samples, or no group with samples")
    before, after = outcomes(baseline, data), outcomes(model, data)
    rows = []
    for name, members in groups.present():
        part = replace(data, x=data.x[members], y=data.labels[members])
        rows.append(_row(name, before[members], after[members]) | _shape("", model, part, curvature))
        rows[-1] |= _shape("baseline_", baseline, part, curvature)
    return {"groups": rows, "gap": _gap(rows)}


def _row(name: str, before: Right, after: Right) -> Json:
    accuracy, drop = accuracy_interval(after), paired_drop(before, after)
    return {
        "name": name,
        "images": len(after),
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "baseline_accuracy": float(before.mean()),
        "drop": drop.value,
        "drop_low": drop.low,
        "drop_high": drop.high,
        "p_value": mcnemar(before, after),
    }


def _shape(prefix: str, model: nn.Module, part: Dataset, curvature: bool) -> Json:
    distances = boundary_distances(model, part)
    found: Json = {
        f"{prefix}gradient_norm": gradient_norm(model, part),
        f"{prefix}boundary_distance": float(distances.margin.mean()),
        f"{prefix}boundary_radius": float(distances.radius.mean()),
    }
    return found | ({f"{prefix}curvature": top_curvature(model, part.take(_BATCH))} if curvature else {})


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
