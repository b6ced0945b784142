"""The report of reduced models: a page, plots and JSON, from the records of ``reduce``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

import pi_compiler
from pi_compiler import files
from pi_compiler.report.cards import cards
from pi_compiler.report.figures import (
    accuracy_figure,
    classes_figure,
    costs_figure,
    curve_name,
    drawn,
    kept_figure,
)
from pi_compiler.report.forms import forms_section
from pi_compiler.report.page import Part, Picture, Section, render
from pi_compiler.report.points import Point, points, to_json
from pi_compiler.report.records import Reduction, read_reduction
from pi_compiler.report.sections import (
    accuracy_section,
    classes_section,
    costs_section,
    kept_section,
    ranges_section,
    rate,
    repeat_section,
    signed,
)

__all__ = ["write_reduction_report"]

_REM_PER_INCH = 7.0
_TOLD = 3
"""Budgets that the first lines name, the smallest ones."""


def write_reduction_report(folders: Iterable[Path], place: Path) -> dict[str, object]:
    """Write ``report.html``, ``report.json`` and ``*.png`` into a folder; returns the JSON.

    Args:
        folders: of ``reduce``.
        place: made if missing; files of the same name in it are replaced.

    Raises:
        ParameterError: a folder that ``reduce`` did not write, or a place that cannot be written.
        ArtifactError: records are damaged.
    """
    reductions = read_reduction(folders)
    files.make_folder(place)
    parts, pictures = [], {}
    for i, r in enumerate(reductions):
        part, drawings = _part(r, f"part{i + 1}", f"{i + 1}-" if len(reductions) > 1 else "")
        parts.append(part)
        pictures.update(drawings)
    exchanged = all(m.forms is not None for r in reductions for m in r.models)
    title = f"{'Forms' if exchanged else 'ReLU reduction'}: {'; '.join(part.name for part in parts)}"
    found: dict[str, object] = {
        "version": pi_compiler.__version__,
        "reductions": [to_json(r) for r in reductions],
        "plots": sorted(pictures),
    }
    page = render(
        title, _subtitle(reductions), parts, f"Written by pi-compiler {pi_compiler.__version__} from its records."
    )
    for name, png in pictures.items():
        files.write(place / name, png)
    files.write_json(place / "report.json", found)
    files.write(place / "report.html", page.splitlines())
    return found


def _part(r: Reduction, anchor: str, prefix: str) -> tuple[Part, dict[str, bytes]]:
    found = points(r)
    drawings = _drawings(r)
    pictures = {
        name: Picture.of(drawn(figure, "svg"), caption, figure.get_size_inches()[0] * _REM_PER_INCH)
        for name, (figure, caption) in drawings.items()
    }
    sections: tuple[Section, ...] = (
        accuracy_section(r, found, [pictures["accuracy"]] if "accuracy" in pictures else []),
        costs_section(r, found, [pictures["costs"]] if "costs" in pictures else []),
        *([kept_section([p for name, p in pictures.items() if name.startswith("kept")])] if r.relu_total else []),
        ranges_section(r, found),
        classes_section(r, found, [pictures["classes"]] if "classes" in pictures else []),
        repeat_section(r),
    )
    forms = forms_section(r)
    sections = sections if forms is None else (forms, *sections)
    every = [p for ps in found.values() for p in ps]
    part = Part(anchor, f"{r.model} on {r.quoted}", tuple(_lead(r, found)), cards(r, every), sections)
    return part, {f"{prefix}{name}.png": drawn(figure, "png") for name, (figure, _) in drawings.items()}


def _drawings(r: Reduction) -> dict[str, tuple[Figure, str]]:
    """Figures and captions by name."""
    found: dict[str, tuple[Figure, str]] = {}
    if r.relu_total:  # else nothing lies on the axis of ReLUs
        found |= {
            "accuracy": (
                accuracy_figure(r),
                "Test accuracy against the number of ReLUs that a sample needs. Mean over seeds; bars: standard "
                "deviation, or the 95 % interval of a single seed. The axis is broken left of the dotted line.",
            ),
            "classes": (
                classes_figure(r),
                f"Points lost against {r.original_told}: by the class that lost most (solid) and on average (dotted).",
            ),
        }
    costs = costs_figure(r)
    if costs is not None:
        found["costs"] = (costs, f"Test accuracy against predicted time per sample. Dashed: {r.original_told}.")
    for curve, budgets in r.curves().items():
        if not r.relu_total or not any(m.layers for models in budgets.values() for m in models):
            continue
        name = re.sub(r"[^a-z0-9-]", "", "-".join(("kept", *curve)).lower())
        found[name] = (kept_figure(curve, budgets), f"ReLUs kept by {curve_name(curve)}; left: the layer's ReLUs.")
    return found


def _subtitle(reductions: Sequence[Reduction]) -> str:
    models = sum(len(r.models) for r in reductions)
    seeds = len({m.seed for r in reductions for m in r.models})
    return f"{models} reduced models, {seeds} seed{'s' if seeds > 1 else ''}; trained, exported to ONNX, and scored"


def _lead(r: Reduction, found: Mapping[tuple[str, str, str], Sequence[Point]]) -> list[str]:
    """What a reader wants to know first: the original, and the smallest budget of every curve."""
    whole = f"With all {r.relu_total:,} ReLUs" if r.relu_total else "As it came"
    lines = [
        f"{whole} the model is right on {rate(r.original.accuracy)} of the test samples. "
        "In parentheses: difference in points.",
    ]
    for curve, ps in found.items():
        told = [
            f"{rate(p.accuracy.mean)}{f' with {p.relu_count:,}' if r.relu_total else ''} "
            f"({signed(100 * (p.accuracy.mean - r.original.accuracy))})"
            for p in ps[-_TOLD:]
        ]
        lines.append(f"{curve_name(curve)}: {', '.join(told)}.")
    return lines
