"""Figures of a reduction, for paper and screen: colors of Okabe and Ito (2008) with a marker each.

Every function returns a figure; ``drawn`` gives its bytes. Nothing here touches the process's settings.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pi_compiler.report.records import Reduced, Reduction, mpc_costs
from pi_compiler.report.statistics import ClassGap, Spread, mean_counts, spread, wilson

__all__ = ["accuracy_figure", "classes_figure", "compact", "costs_figure", "curve_name", "drawn", "kept_figure"]

Curve = tuple[str, str, str]
Curves = Mapping[Curve, Mapping[int, Sequence[Reduced]]]

COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
LINES: Final = ("-", "--", "-.", ":")
_PANELS = 3
_DECADE = 10.0
_GRAY = "#555555"
_STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "pi-compiler",
}


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE):
        yield


def drawn(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """The figure as a file; the same figure gives the same bytes."""
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with _style():
        figure.savefig(stream, format=kind, dpi=200, metadata=metadata)
    return stream.getvalue()


def curve_name(curve: Curve) -> str:
    """How a legend calls a method with its replacement and granularity."""
    method, kind, granularity = curve
    return f"{method}, {kind}, by {granularity}" if granularity else f"{method}, {kind}"


def accuracy_figure(r: Reduction) -> Figure:
    """Test accuracy against the ReLU count, mean over seeds with error bars, zero on a logarithmic axis."""
    curves = r.curves()
    with _style():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        position = _count_axis(axes, r)
        _original(axes, r)
        for i, (curve, budgets) in enumerate(curves.items()):
            points = []
            for models in budgets.values():
                found = spread([m.test.accuracy for m in models], models[0].test.images)
                count = sum(m.relu_count for m in models) / len(models)
                points.append((position(count) * _dodge(i, len(curves)), found))
            _curve(axes, i, curve_name(curve), points)
        axes.set_xlabel("ReLUs per sample (logarithmic)")
        axes.set_ylabel("test accuracy (%)")
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def costs_figure(r: Reduction) -> Figure | None:
    """Accuracy against predicted seconds, one panel per way to run; None where no model has a prediction."""
    ways = {way: found for way in _ways(r) if (found := _timed(r, way))}
    if not ways:
        return None
    curves = r.curves()
    with _style():
        across = min(len(ways), _PANELS)
        down = -(-len(ways) // across)
        figure = Figure(figsize=(3.2 * across + 0.8, 2.9 * down + 0.5), layout="constrained")
        panels: list[Axes] = list(np.ravel(figure.subplots(down, across, sharey=True)))
        for unused in panels[len(ways) :]:
            unused.set_visible(False)
        for axes, (way, times) in zip(panels, ways.items(), strict=False):
            for i, (curve, budgets) in enumerate(curves.items()):
                points = []
                for models in budgets.values():
                    seconds = [times[m] for m in models if m in times]
                    if seconds:
                        over = spread([m.test.accuracy for m in models], models[0].test.images)
                        points.append((sum(seconds) / len(seconds), over))
                _curve(axes, i, curve_name(curve), points, joined=False)
            axes.axhline(100 * r.original.accuracy, color=_GRAY, linestyle="--", linewidth=1.0)
            # Labels of a logarithmic axis that spans less than a decade run into each other.
            if max(times.values()) > _DECADE * min(times.values()):
                axes.set_xscale("log")
            else:
                axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_xlabel(f"predicted seconds, {way}")
        for first in panels[::across]:
            first.set_ylabel("test accuracy (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def kept_figure(curve: Curve, budgets: Mapping[int, Sequence[Reduced]]) -> Figure:
    """Share of each layer's ReLUs that stayed, mean over seeds: layers from the input down, budgets across."""
    layers = next(iter(budgets.values()))[0].layers
    counts = np.array(
        [[np.mean([m.layers[i].kept for m in ms]) for ms in budgets.values()] for i in range(len(layers))]
    )
    share = counts / np.array([[layer.elements] for layer in layers])
    with _style():
        figure = Figure(figsize=(2.4 + 0.85 * len(budgets), 1.2 + 0.3 * len(layers)), layout="constrained")
        axes = figure.subplots()
        # The square root keeps a few percent visible beside a full layer.
        image = axes.imshow(100 * share, cmap="cividis", norm=PowerNorm(0.5, 0, 100), aspect="auto")
        for row, column in np.ndindex(*share.shape):
            color = "black" if share[row, column] > 0.3 else "white"
            axes.text(
                column, row, compact(float(counts[row, column])), ha="center", va="center", color=color, fontsize=8
            )
        axes.set_xticks(range(len(budgets)), [f"{b:,}" for b in budgets])
        axes.set_yticks(range(len(layers)), [f"{layer.name}  {compact(layer.elements)}" for layer in layers])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("budget")
        axes.set_title(curve_name(curve), fontsize=9)
        bar = figure.colorbar(image, ax=axes, ticks=[0, 1, 10, 25, 50, 100], pad=0.02)
        bar.set_label("kept (%)")
        bar.outline.set_visible(False)
    return figure


def classes_figure(r: Reduction) -> Figure:
    """Who pays: points lost against the original on average and by the class that lost most."""
    with _style():
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        position = _count_axis(axes, r)
        original = [(c.name, c.correct / c.images) for c in r.original.classes if c.images]
        for i, (curve, budgets) in enumerate(r.curves().items()):
            x, mean, worst = [], [], []
            for models in sorted(budgets.values(), key=lambda ms: ms[0].budget):
                counts = mean_counts([m.test.classes for m in models])
                found = ClassGap.of([(n, f) for n, images, f, _ in counts if images], original)
                x.append(position(sum(m.relu_count for m in models) / len(models)))
                mean.append(100 * (r.original.accuracy - sum(m.test.accuracy for m in models) / len(models)))
                worst.append(100 * found.drop)
            marker, color = MARKERS[i % len(MARKERS)], _color(i)
            axes.plot(x, worst, color=color, marker=marker, label=f"{curve_name(curve)}: worst class")
            axes.plot(x, mean, color=color, marker=marker, linestyle=":", fillstyle="none", label="on average")
        axes.axhline(0, color=_GRAY, linewidth=0.8)
        axes.set_xlabel("ReLUs per sample (logarithmic)")
        axes.set_ylabel("points lost")
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def compact(n: float) -> str:
    """A count in as few letters as a cell has room for."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return f"{n:.3g}"


def _curve(axes: Axes, i: int, name: str, points: Sequence[tuple[float, Spread]], joined: bool = True) -> None:
    ordered = sorted(points, key=lambda p: p[0])
    mean = [100 * s.mean for _, s in ordered]
    below = [100 * (s.mean - s.low) for _, s in ordered]
    above = [100 * (s.high - s.mean) for _, s in ordered]
    line = LINES[i // len(COLORS) % len(LINES)] if joined else "none"
    axes.errorbar(
        [x for x, _ in ordered],
        mean,
        yerr=[below, above],
        label=name,
        color=_color(i),
        marker=MARKERS[i % len(MARKERS)],
        linestyle=line,
        capsize=2.5,
        elinewidth=1.0,
        markeredgecolor="white",
        markeredgewidth=0.5,
    )


def _count_axis(axes: Axes, r: Reduction) -> Callable[[float], float]:
    """A logarithmic axis with a place for zero at its left end; returns where a count lies."""
    # A transformer's GELU compares nothing: then there is no count above zero.
    counts = [m.relu_count for m in r.models if m.relu_count] or [max(r.relu_total, 1)]
    least, most = min(counts), max(*counts, r.relu_total)
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    zero = 10 ** (math.log10(least) - 0.6) if any(m.relu_count == 0 for m in r.models) else None
    ticks = [10.0**e for e in range(first, last + 1) if least * 0.6 < 10.0**e <= most * 1.6]
    axes.set_xscale("log")
    axes.set_xlim((zero or least) / 1.6, most * 1.6)
    axes.set_xticks([*([zero] if zero else []), *ticks], [*(["0"] if zero else []), *(f"{t:,.0f}" for t in ticks)])
    axes.minorticks_off()
    if zero:
        # The axis is broken between zero and the smallest count.
        axes.axvline(zero * 10**0.3, color=_GRAY, linewidth=0.8, linestyle=(0, (1, 2)))
    return lambda count: count if count > 0 or zero is None else zero


def _original(axes: Axes, r: Reduction) -> None:
    low, high = wilson(r.original.accuracy, r.original.images)
    axes.axhspan(100 * low, 100 * high, color="#000000", alpha=0.07, linewidth=0)
    whole = f"all {r.relu_total:,} ReLUs" if r.relu_total else "as it came"
    label = f"{whole} ({r.original.accuracy:.2%}; band: 95 %)"
    axes.axhline(100 * r.original.accuracy, color="#000000", linestyle="--", linewidth=1.0, label=label)


def _dodge(i: int, count: int) -> float:
    """Curves at the same budgets stand side by side, so that their error bars do not hide each other."""
    return float(10 ** (0.025 * (i - (count - 1) / 2)))


def _color(i: int) -> str:
    return COLORS[i % len(COLORS)]


def _ways(r: Reduction) -> list[str]:
    """CKKS and every protocol with a network that some model has a prediction for."""
    found = ["CKKS"] if any(m.ckks for m in r.models) else []
    for m in r.models:
        for protocol, networks in mpc_costs(m.mpc).items():
            found += [way for n in networks if (way := f"{protocol}, {n}") not in found]
    return found


def _timed(r: Reduction, way: str) -> dict[Reduced, float]:
    """Predicted seconds of the models that can run this way."""
    found: dict[Reduced, float] = {}
    for m in r.models:
        if way == "CKKS":
            seconds = (m.ckks or {}).get("predicted_seconds")
        else:
            protocol, _, network = way.partition(", ")
            seconds = mpc_costs(m.mpc).get(protocol, {}).get(network, {}).get("seconds")
        if isinstance(seconds, int | float):
            found[m] = float(seconds)
    return found
