"""The sections of a reduction's page: what was measured, as sentences, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pi_compiler.report.figures import curve_name
from pi_compiler.report.page import Cell, Picture, Row, Section, Table, cells
from pi_compiler.report.points import Fraction, Point, original_fractions
from pi_compiler.report.records import Json, Reduced, Reduction
from pi_compiler.report.statistics import ClassGap, wilson
from pi_compiler.report.text import duration, figure, size

__all__ = [
    "accuracy_section",
    "classes_section",
    "costs_section",
    "kept_section",
    "ranges_section",
    "rate",
    "repeat_section",
    "signed",
]

Curve = tuple[str, str, str]
Points = Mapping[Curve, Sequence[Point]]

_PROFIT = {
    "pixel": "Kept by pixel: only MPC profits. There every comparison is paid for on its own. Under CKKS a tensor "
    "with a single ReLU left pays for the comparison's polynomial on the whole tensor, and for the replacement "
    "beside it; only tensors without any ReLU cost less.",
    "channel": "Kept by channel: MPC profits from every channel. CKKS packs channels of one tensor together and "
    "pays for the comparison's polynomial as long as one of them keeps its ReLU.",
    "layer": "Kept by layer: both profit. MPC pays for the elements that are left, CKKS for the tensors.",
}


def accuracy_section(r: Reduction, points: Points, figures: Sequence[Picture]) -> Section:
    """Accuracy, against the ReLU count where there are ReLUs."""
    low, high = wilson(r.original.accuracy, r.original.images)
    original = Row(
        cells([
            r.original_name, "", f"{r.relu_total:,}", "100 %", "",
            Cell(rate(r.original.accuracy), f"{rate(low)} to {rate(high)}"), "", rate(r.original_validation.accuracy),
        ]),
        "original",
    )  # fmt: skip
    rows = [original]
    for curve, found in points.items():
        for i, p in enumerate(found):
            change = 100 * (p.accuracy.mean - r.original.accuracy)
            bar = (
                f"± {100 * p.accuracy.deviation:.2f} (s.d.)"
                if p.accuracy.deviation is not None
                else f"{rate(p.accuracy.low)} to {rate(p.accuracy.high)}"
            )
            # A transformer's GELU is no ReLU: of none there is no share.
            share = f"{100 * p.relu_count / r.relu_total:.3g} %" if r.relu_total else ""
            texts: list[str | Cell] = [
                _first(curve, i), f"{p.budget:,}", f"{p.relu_count:,}", share,
                str(len(p.seeds)), Cell(rate(p.accuracy.mean), bar), signed(change), rate(p.validation),
            ]  # fmt: skip
            rows.append(Row(cells(texts), "start" if i == 0 else ""))
    head = cells(["", "budget", "ReLUs left", "share", "seeds", "test accuracy", "points", "validation"])
    return Section(
        "Accuracy against ReLU count" if r.relu_total else "Accuracy",
        figures=tuple(figures),
        tables=(Table(head, tuple(rows)),),
        after=(
            "Small print under an accuracy: standard deviation over seeds, or for a single seed the 95 % interval "
            "(Wilson) that the number of test samples allows. "
            f"Points: difference from {r.original_told}.",
        ),
    )


def costs_section(r: Reduction, points: Points, figures: Sequence[Picture]) -> Section:
    """What running each model privately is predicted to cost, and which backend profits."""
    granularities = sorted({c[2] for c in points if c[2]}, key=list(_PROFIT).index) if r.relu_total else []
    networks = list(dict.fromkeys(w for ps in points.values() for p in ps for w in _networks(p)))
    head = ["", "ReLUs left", "tensors with ReLU", "CKKS levels", "log N", "rotations", "keys", "CKKS time"]
    head += [f"{protocol}, {network}" for protocol, network in networks]
    first = Row(
        cells([r.original_name, f"{r.relu_total:,}", "all", *_ckks_cells(r.original_ckks), *[""] * len(networks)]),
        "original",
    )
    rows = [first]
    for curve, found in points.items():
        for i, p in enumerate(found):
            texts = [_first(curve, i), f"{p.relu_count:,}", f"{p.tensors} of {p.of}", *_ckks_cells(p.ckks)]
            rows.append(Row(cells([*texts, *(_mpc_cell(p, *w) for w in networks)]), "start" if i == 0 else ""))
    plans = [r.original_ckks, *(p.ckks for ps in points.values() for p in ps)]
    reasons = dict.fromkeys(str(plan["refused"]) for plan in plans if plan is not None and "refused" in plan)
    after = [*(f"Refused: {reason}." for reason in reasons)]
    after += ["CKKS: one sample per run, encryption and decryption included; means over seeds."]
    if networks:
        after.append("MPC: online phase of one sample; bytes in both directions, rounds one after the other.")
    else:
        after.append("No MPC columns: these records hold no MPC cost.")
    if all(p.ckks is None for ps in points.values() for p in ps):
        after.append("No CKKS figures: reduce was called with --backend none.")
    return Section(
        "Cost of private inference",
        text=(*(_PROFIT[g] for g in granularities), *_compared(r, points)),
        figures=tuple(figures),
        tables=(Table(cells(head), tuple(rows)),),
        after=tuple(after),
    )


def _compared(r: Reduction, points: Points) -> list[str]:
    """What the plans say about it, in seconds."""
    every = _seconds(r.original_ckks)
    lines = []
    for curve, found in points.items():
        times = [(p.relu_count, s) for p in found if (s := _seconds(p.ckks)) is not None]
        if times and every is not None:
            told = ", ".join(f"{duration(s)} with {n:,}" for n, s in times)
            lines.append(f"CKKS, {curve_name(curve)}: {told} ReLUs; {r.original_told} {duration(every)}.")
    return lines


def _seconds(plan: Json | None) -> float | None:
    found = None if plan is None else plan.get("predicted_seconds")
    return float(found) if isinstance(found, int | float) else None


def _ckks_cells(plan: Json | None) -> Sequence[str | Cell]:
    if plan is None:
        return [""] * 5
    if "refused" in plan:
        return [Cell("refused", mark="warn"), "", "", "", ""]
    levels, degree, rotations = (figure(plan[k]) for k in ("levels", "log_n", "rotations"))
    return [levels, degree, rotations, size(plan["key_bytes"]), duration(plan["predicted_seconds"])]


def _networks(p: Point) -> list[tuple[str, str]]:
    return [(protocol, network) for protocol, networks in p.mpc.items() for network in networks]


def _mpc_cell(p: Point, protocol: str, network: str) -> Cell:
    cost = p.mpc.get(protocol, {}).get(network)
    if cost is None:
        return Cell("")
    rounds = cost.get("rounds")
    return Cell(duration(cost.get("seconds")), f"{size(cost.get('bytes'))}, {figure(rounds, 4)} rounds")


def kept_section(figures: Sequence[Picture]) -> Section:
    """Where the ReLUs that stayed are."""
    text = "ReLUs kept per layer, mean over seeds: the number in each cell, its share of the layer as color."
    return Section("What was kept", (text,), tuple(figures))


def ranges_section(r: Reduction, points: Points) -> Section:
    """Values outside the polynomials' intervals, the largest values, answers that are not finite."""
    head = cells(["", "ReLUs left", "images outside", "worst layer", "largest |x|", "NaN images"])
    rows = [
        Row(
            cells([r.original_name, f"{r.relu_total:,}", "", "", figure(_largest(r)), str(r.original.nan_images)]),
            "original",
        )
    ]
    for curve, found in points.items():
        for i, p in enumerate(found):
            texts: list[str | Cell] = [
                _first(curve, i), f"{p.relu_count:,}",
                _warned(f"{p.out_of_range_images:,} of {r.original.images:,}", p.out_of_range_images),
                f"{p.out_of_range:.2g}", figure(p.max_abs), _warned(str(p.nan_images), p.nan_images),
            ]  # fmt: skip
            rows.append(Row(cells(texts), "start" if i == 0 else ""))
    return Section(
        "Ranges",
        (
            "A polynomial is only good inside its interval, which the training split fixed. Outside it errors grow "
            "from layer to layer, and under encryption nobody sees it. On the test split:",
        ),
        tables=(Table(head, tuple(rows)), *_layer_tables(r)),
        after=("The most of any seed. Worst layer: share of its elements outside.",),
    )


def _first(curve: Curve, i: int) -> str:
    """A curve's name where it begins."""
    return curve_name(curve) if i == 0 else ""


def _warned(text: str, count: int) -> Cell:
    return Cell(text, mark="warn" if count else "")


def _largest(r: Reduction) -> float:
    return max((s.max_abs for s in r.original.seen), default=0.0)


def _layer_tables(r: Reduction) -> list[Table]:
    """One folded table per reduced model."""
    head = cells(["layer", "elements", "kept", "interval", "largest |x|", "outside"])
    return [Table(head, tuple(_layer_rows(m)), folded=f"Layers of {_named(m)}") for m in r.models]


def _layer_rows(m: Reduced) -> list[Row]:
    rows = []
    for layer in m.layers:
        mine = [s for s in m.test.seen if s.name == layer.name or s.name.startswith(f"{layer.name}/")]
        ends = "" if layer.interval is None else f"[{layer.interval[0]:.3g}, {layer.interval[1]:.3g}]"
        largest = max((s.max_abs for s in mine), default=0.0)
        outside = max((s.out_of_range for s in mine), default=0.0)
        rows.append(
            Row(cells([layer.name, f"{layer.elements:,}", f"{layer.kept:,}", ends, figure(largest), f"{outside:.2g}"]))
        )
    return rows


def classes_section(r: Reduction, points: Points, figures: Sequence[Picture]) -> Section:
    """Who pays: accuracy per class and group with intervals, gaps, and the largest losses."""
    tables = [_gaps("class", points, lambda p: p.class_gap)]
    parts: list[tuple[str, Sequence[Fraction], Callable[[Point], Sequence[Fraction]]]] = [
        ("class", original_fractions(r.original.classes), lambda p: p.classes)
    ]
    if r.original.groups:
        tables.append(_gaps("group", points, lambda p: p.group_gap))
        parts.append(("group", original_fractions(r.original.groups), lambda p: p.groups))
    for what, before, of in parts:
        tables += [_fractions(what, r.original_name, before, curve_name(c), found, of) for c, found in points.items()]
    tables += [_shapes(m) for m in r.models if m.fairness]
    return Section(
        "Classes",
        (
            "Fewer ReLUs do not cost every class the same (Disparate Impact of linearization). Gap: best minus worst "
            f"class. Worst drop: the class that lost most against {r.original_told}.",
        ),
        tuple(figures),
        tuple(tables),
        after=(
            "Intervals: 95 %, Wilson, for the images of the class; accuracies are means over seeds, which see the "
            "same images and therefore do not narrow them.",
        ),
    )


def _gaps(what: str, points: Points, of: Callable[[Point], ClassGap | None]) -> Table:
    head = cells(["", "ReLUs left", "gap", f"worst {what}", "its accuracy", "worst drop", "in"])
    rows = []
    for curve, found in points.items():
        for i, p in enumerate(found):
            gap = of(p)
            if gap is None:
                continue
            texts: list[str | Cell] = [
                _first(curve, i), f"{p.relu_count:,}", f"{100 * gap.gap:.2f}", gap.worst, rate(gap.worst_accuracy),
                f"{100 * gap.drop:.2f}", gap.hit,
            ]  # fmt: skip
            rows.append(Row(cells(texts), "start" if i == 0 else ""))
    return Table(head, tuple(rows), f"Gaps between {'classes' if what == 'class' else 'groups'}, in points")


def _shapes(m: Reduced) -> Table:
    """What may explain who pays: gradients and distances, before and after."""
    head = cells(["group", "images", "accuracy", "drop", "p", "gradient norm", "distance to the boundary"])
    rows = []
    for g in m.fairness:
        ends = f"{100 * g.drop_low:.2f} to {100 * g.drop_high:.2f}"
        texts: list[str | Cell] = [
            g.name, f"{g.images:,}", rate(g.accuracy), Cell(f"{100 * g.drop:.2f}", ends), f"{g.p_value:.2g}",
            f"{_maybe(g.baseline_gradient)} → {_maybe(g.gradient)}",
            f"{_maybe(g.baseline_radius)} → {_maybe(g.radius)}",
        ]  # fmt: skip
        rows.append(Row(cells(texts)))
    return Table(head, tuple(rows), folded=f"Groups of {_named(m)}, all ReLUs → reduced; drops in points, paired")


def _named(m: Reduced) -> str:
    """A model's folder; several runs of ``reduce`` give a transformer's the same name, whatever its forms."""
    return m.folder if m.forms is None else f"{m.folder}: {', '.join(m.forms)}"


def _maybe(value: float | None) -> str:
    return "not finite" if value is None else figure(value)


def _fractions(
    what: str,
    original: str,
    before: Sequence[Fraction],
    name: str,
    found: Sequence[Point],
    of: Callable[[Point], Sequence[Fraction]],
) -> Table:
    head = cells([what, "images", original, *(f"{p.relu_count:,} ReLUs" for p in found)])
    columns = [before, *(of(p) for p in found)]
    rows = []
    for i, first in enumerate(columns[-1]):
        texts = [Cell(rate(c[i].accuracy), f"{rate(c[i].low)} to {rate(c[i].high)}") for c in columns]
        rows.append(Row(cells([first.name, f"{first.images:,}", *texts])))
    return Table(head, tuple(rows), folded=f"Per {what}: {name}")


def repeat_section(r: Reduction) -> Section:
    """Commands, seeds, versions, settings."""
    commands = list(dict.fromkeys(m.command for m in r.models))
    settings = list(dict.fromkeys(str(dict(m.settings)) for m in r.models))
    return Section(
        "How to repeat it",
        (f"Model {r.model} (sha256 {r.sha256}), data {r.quoted}. Every default is spelled out:",),
        code=(*commands, *settings),
    )


def rate(fraction: float) -> str:
    """A fraction as a percentage with two digits behind the point, never broken before its sign."""
    return f"{100 * fraction:.2f}\N{NO-BREAK SPACE}%"


def signed(points: float) -> str:
    """A difference in points, with the minus sign of typography."""
    return f"{points:+.2f}".replace("-", "\N{MINUS SIGN}")
