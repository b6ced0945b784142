"""Forms of a transformer's parts on a reduction's page: what each combination answers and costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from pi_compiler.report.page import Cell, Row, Section, Table, cells
from pi_compiler.report.records import Json, Reduced, Reduction, Scores, mpc_costs
from pi_compiler.report.sections import rate
from pi_compiler.report.text import duration, figure, size

__all__ = ["forms_section"]

Forms = tuple[str, str, str]


def forms_section(r: Reduction) -> Section | None:
    """One row per combination of attention, normalization and activation; None if no record exchanged these."""
    groups: dict[Forms, list[Reduced]] = {}
    for model in r.models:
        if model.forms is not None:
            groups.setdefault(model.forms, []).append(model)
    if not groups:
        return None
    every = [r.original_mpc, *(m.mpc for m in r.models)]
    places = list(dict.fromkeys((p, n) for costs in every for p, found in mpc_costs(costs).items() for n in found))
    head = [
        "attention",
        "normalization",
        "activation",
        "seeds",
        "test accuracy",
        "CKKS levels",
        "rotations",
        "CKKS time",
    ]
    head += [f"{protocol}, {network}" for protocol, network in places]
    original = _cells([r.original], [r.original_ckks], [r.original_mpc], places)
    rows = [Row(cells([r.original_name, "", "", "", *original]), "original")]
    for forms, models in groups.items():
        found = _cells([m.test for m in models], [m.ckks for m in models], [m.mpc for m in models], places)
        rows.append(Row(cells([*forms, str(len(models)), *found])))
    return Section(
        "Forms of attention, normalization and activation",
        text=("Each network was trained with its forms; costs are those of its plan, one sample per run.",),
        tables=(Table(cells(head), tuple(rows)),),
        after=(
            "Means over seeds; small print under an accuracy: its standard deviation, under MPC: bytes and rounds.",
        ),
    )


def _cells(
    tests: Sequence[Scores],
    plans: Sequence[Json | None],
    mpc: Sequence[Json | None],
    places: Sequence[tuple[str, str]],
) -> list[str | Cell]:
    """Accuracies and costs of the seeds of one combination."""
    found = [t.accuracy for t in tests]
    deviation = f"± {100 * statistics.stdev(found):.2f}" if len(found) > 1 else ""
    fitting = [p for p in plans if p is not None and "refused" not in p]
    ckks: list[str | Cell] = [
        _mean([p.get(key) for p in fitting], style)
        for key, style in (
            ("levels", figure),
            ("rotations", figure),
            ("predicted_seconds", duration),
        )
    ]
    if not fitting and any(p is not None for p in plans):
        ckks[0] = Cell("refused", mark="warn")
    between: list[str | Cell] = []
    for protocol, network in places:
        costs = [c for m in mpc if (c := mpc_costs(m).get(protocol, {}).get(network)) is not None]
        seconds, sent, rounds = ([c.get(key) for c in costs] for key in ("seconds", "bytes", "rounds"))
        under = f"{_mean(sent, size)}, {_mean(rounds, figure)} rounds" if costs else ""
        between.append(Cell(_mean(seconds, duration), under))
    return [Cell(rate(statistics.mean(found)), deviation), *ckks, *between]


def _mean(values: Sequence[object], style: Callable[[object], str]) -> str:
    numbers = [float(v) for v in values if isinstance(v, int | float)]
    return style(statistics.mean(numbers)) if numbers else ""
