"""The records that ``reduce`` leaves, read back and checked.

A folder holds ``reduction.json`` (model, data set, the all-ReLU model's scores) and one folder per reduced
model with its ``record.json``. What a report says comes from these files alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pi_compiler.errors import ArtifactError, ParameterError

__all__ = ["FORMS", "Count", "Group", "Layer", "Reduced", "Reduction", "Scores", "Seen", "mpc_costs", "read_reduction"]

T = TypeVar("T")
FORMS = ("softmax", "norm", "activation")
"""Parts of a transformer that ``reduce`` exchanges."""
Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Count:
    """Right answers among the images of one class or group."""

    name: str
    images: int
    correct: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What reached one activation: largest absolute value, share of elements outside the polynomial's interval."""

    name: str
    max_abs: float
    out_of_range: float


@dataclass(frozen=True, slots=True)
class Scores:
    """What a network does on a split.

    Attributes:
        images: all of them; those with an answer that is not finite count as wrong.
        accuracy: fraction correct.
        nan_images: images with an answer that is not finite.
        out_of_range_images: images with at least one value outside an interval.
        classes: per class.
        groups: per group, where the data have any.
        seen: per activation.
    """

    images: int
    accuracy: float
    nan_images: int
    out_of_range_images: int
    classes: tuple[Count, ...]
    groups: tuple[Count, ...]
    seen: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """What is left of one nonlinearity; the interval is that of its polynomial, None where nothing was replaced."""

    name: str
    elements: int
    kept: int
    by_channel: tuple[int, ...]
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Group:
    """One group in a reduced model's ``fairness`` record, see ``models.training.fairness``; None: not finite."""

    name: str
    images: int
    accuracy: float
    drop: float
    drop_low: float
    drop_high: float
    p_value: float
    baseline_gradient: float | None
    gradient: float | None
    baseline_radius: float | None
    radius: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """One reduced model, see ``models.training.reduction``."""

    folder: str
    method: str
    kind: str
    granularity: str
    budget: int
    relu_count: int
    relu_total: int
    seed: int
    command: str
    versions: Mapping[str, str]
    settings: Json
    seconds: float
    epochs: tuple[tuple[str, int], ...]
    layers: tuple[Layer, ...]
    validation: Scores
    test: Scores
    ckks: Json | None
    mpc: Json | None
    fairness: tuple[Group, ...] = ()

    @property
    def forms(self) -> tuple[str, str, str] | None:
        """What a transformer's attention, normalizations and activations gave way to; None where nothing did."""
        given = self.settings.get("forms")
        if not isinstance(given, dict) or not all(part in given for part in FORMS):
            return None
        attention, norm, activation = (str(given[part]) for part in FORMS)
        return attention, norm, activation

    @property
    def series(self) -> tuple[str, str, str]:
        """What models on one curve have in common: method, replacement, and what stays or goes as one, if anything."""
        if self.forms is not None:
            return self.method, ", ".join(self.forms), ""
        return self.method, self.kind, self.granularity


@dataclass(frozen=True, slots=True, eq=False)
class Reduction:
    """One model on one data set, and what was made of it.

    Attributes:
        model: the graph's name.
        sha256: of its ONNX file.
        dataset: its name.
        quoted: what figures on it are quoted as.
        relu_total: ReLUs of the original.
        original: its test scores.
        original_validation: its validation scores.
        original_ckks: its CKKS plan, None where nobody asked.
        original_mpc: what it costs between parties, None where nobody asked.
        models: by series, budget (falling), seed.
    """

    model: str
    sha256: str
    dataset: str
    quoted: str
    relu_total: int
    original: Scores
    original_validation: Scores
    original_ckks: Json | None
    original_mpc: Json | None
    models: tuple[Reduced, ...]

    @property
    def original_name(self) -> str:
        """What the original is called in a table."""
        return "all ReLUs" if self.relu_total else "as it came"

    @property
    def original_told(self) -> str:
        """The same in a sentence."""
        return "the all-ReLU model" if self.relu_total else "the model as it came"

    def curves(self) -> dict[tuple[str, str, str], dict[int, list[Reduced]]]:
        """Per method, kind and granularity: per budget, falling, the models of all seeds."""
        found: dict[tuple[str, str, str], dict[int, list[Reduced]]] = {}
        for m in self.models:
            found.setdefault(m.series, {}).setdefault(m.budget, []).append(m)
        return found


def mpc_costs(costs: Json | None) -> dict[str, dict[str, Json]]:
    """Predicted ``bytes``, ``rounds`` and ``seconds`` by protocol and network; empty where nobody asked."""
    return {
        protocol: {network: _mapping(figures) for network, figures in _mapping(networks).items()}
        for protocol, networks in (costs or {}).items()
    }


def read_reduction(folders: Iterable[Path]) -> list[Reduction]:
    """Read folders; those of one model on one data set become one reduction.

    Raises:
        ParameterError: a folder that ``reduce`` did not write, or two models that would count as two seeds and are one.
        ArtifactError: records are damaged or missing; all of them in one message.
    """
    faults: list[str] = []
    merged: dict[tuple[str, str], list[Reduction]] = {}
    for folder in folders:
        files = sorted(folder.glob("*/record.json"))
        if (folder / "reduction.json").is_file():
            top = _parsed(folder / "reduction.json", _reduction, faults)
        elif files:
            # Benchmarks write records alone; each has the original's scores.
            top = _parsed(files[0], _reduction, faults)
        else:
            raise ParameterError(
                f"{folder} holds no reduction.json", hint="a folder that pi-compiler reduce --output wrote"
            )
        models = [m for m in (_parsed(f, _reduced, faults) for f in files) if m is not None]
        if not files:
            faults.append(f"{folder}: no model is finished")
        if top is not None:
            found = Reduction(*top, models=tuple(models))
            merged.setdefault((found.sha256, found.dataset), []).append(found)
    if faults:
        raise ArtifactError("the records cannot be read", *faults, hint="remove them and run pi-compiler reduce again")
    _check_seeds(merged.values())
    return [_together(found) for found in merged.values()]


def _check_seeds(merged: Iterable[Sequence[Reduction]]) -> None:
    """Several runs of one seed differ by how they were trained: their spread is not that of seeds."""
    faults = []
    for runs in merged:
        count = Counter((m.series, m.budget, m.seed) for r in runs for m in r.models)
        faults += [
            f"{runs[0].model}, {', '.join(filter(None, series))}, budget {budget}, seed {seed}: {n} models"
            for (series, budget, seed), n in count.items()
            if n > 1
        ]
    if faults:
        raise ParameterError(
            "several models of one seed would be averaged as if their seeds differed",
            *faults,
            hint="a report of each folder, or runs with other seeds",
        )


def _together(found: Sequence[Reduction]) -> Reduction:
    models = sorted((m for r in found for m in r.models), key=lambda m: (*m.series, -m.budget, m.seed))
    first = found[0]
    return Reduction(
        first.model, first.sha256, first.dataset, first.quoted, first.relu_total, first.original,
        first.original_validation, first.original_ckks, first.original_mpc, tuple(models),
    )  # fmt: skip


def _parsed(path: Path, parse: Callable[[Path, Json], T], faults: list[str]) -> T | None:
    try:
        found = json.loads(path.read_text())
        return parse(path, found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        faults.append(f"{path}: {type(error).__name__} {error}")
        return None


def _reduction(path: Path, r: Json) -> tuple[str, str, str, str, int, Scores, Scores, Json | None, Json | None]:
    baseline = _mapping(r["baseline"])
    ckks, mpc = baseline.get("ckks"), baseline.get("mpc")
    return (
        str(r["model"]),
        str(r.get("model_sha256", "not recorded")),
        str(r["dataset"]),
        str(r.get("quoted", r["dataset"])),
        int(str(baseline["relu_count"])),
        _scores(baseline["test"]),
        _scores(baseline["validation"]),
        None if ckks is None else _mapping(ckks),
        None if mpc is None else _mapping(mpc),
    )


def _reduced(path: Path, r: Json) -> Reduced:
    found = Reduced(
        folder=path.parent.name,
        method=str(r["method"]),
        kind=str(r["kind"]),
        granularity=str(r["granularity"]),
        budget=int(str(r["budget"])),
        relu_count=int(str(r["relu_count"])),
        relu_total=int(str(r["relu_total"])),
        seed=int(str(r["seed"])),
        command=str(r["command"]),
        versions={k: str(v) for k, v in _mapping(r["versions"]).items()},
        settings=_mapping(r["settings"]),
        seconds=float(str(r["seconds"])),
        epochs=tuple((str(s["name"]), len(_list(s["history"]))) for s in map(_mapping, _list(r["stages"]))),
        layers=tuple(_layer(_mapping(x)) for x in _list(r["layers"])),
        validation=_scores(r["validation"]),
        test=_scores(r["test"]),
        ckks=_mapping(r["ckks"]) if "ckks" in r else None,
        mpc=_mapping(r["mpc"]) if "mpc" in r else None,
        fairness=tuple(_group(_mapping(g)) for g in _list(_mapping(r.get("fairness", {})).get("groups", ()))),
    )
    if found.relu_count > found.budget:
        raise ValueError(f"{found.relu_count} ReLUs exceed the budget {found.budget}")
    return found


def _group(g: Json) -> Group:
    def number(name: str) -> float | None:
        return None if g[name] is None else float(str(g[name]))

    return Group(
        str(g["name"]),
        int(str(g["images"])),
        *(float(str(g[name])) for name in ("accuracy", "drop", "drop_low", "drop_high", "p_value")),
        *(number(p + name) for name in ("gradient_norm", "boundary_radius") for p in ("baseline_", "")),
    )


def _layer(x: Json) -> Layer:
    ends = (float(str(x["low"])), float(str(x["high"]))) if "low" in x else None
    channels = tuple(int(str(n)) for n in _list(x.get("kept_by_channel", ())))
    return Layer(str(x["name"]), int(str(x["elements"])), int(str(x["kept"])), channels, ends)


def _scores(value: object) -> Scores:
    s = _mapping(value)
    found = Scores(
        images=int(str(s["images"])),
        accuracy=float(str(s["accuracy"])),
        nan_images=int(str(s["nan_images"])),
        out_of_range_images=int(str(s["out_of_range_images"])),
        classes=_counts(s["classes"], "class"),
        groups=_counts(s.get("groups", ()), "group"),
        seen=tuple(
            Seen(str(x["name"]), float(str(x["max_abs"])), float(str(x["out_of_range"])))
            for x in map(_mapping, _list(s["layers"]))
        ),
    )
    counted = sum(c.images for c in found.classes)
    if counted != found.images:
        raise ValueError(f"classes hold {counted} images, the split {found.images}")
    return found


def _counts(value: object, key: str) -> tuple[Count, ...]:
    return tuple(Count(str(c[key]), int(str(c["images"])), int(str(c["correct"]))) for c in map(_mapping, _list(value)))


def _mapping(value: object) -> Json:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is no object")
    return value


def _list(value: object) -> Sequence[object]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{value!r} is no list")
    return value
