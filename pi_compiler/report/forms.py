"""Forms of a transformer's parts on a reduction's page: what each combination answers and costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from pi_compiler.report.page import Cell, Row, Section, Table, cells
from pi_compiler.report.records import Reduced, Reduction, mpc_costs
from pi_compiler.report.sections import rate
from pi_compiler.report.text import duration, figure, size

__all__ = ["forms_section"]

Forms = tuple[str, str, str]
_PARTS = ("softmax", "norm", "activation")


def forms_section(r: Reduction) -> Section | None:
    """One row per combination of attention, normalization and activation; None if no record exchanged these."""
    groups: dict[Forms, list[Reduced]] = {}
    for model in r.models:
        if (forms := forms_of(model)) is not None:
            groups.setdefault(forms, []).append(model)
    if not groups:
        return None
    places = list(dict.fromkeys((p, n) for m in r.models for p, networks in mpc_costs(m).items() for n in networks))
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
    rows = [Row(cells([*forms, *_figures(models, places)])) for forms, models in groups.items()]
    return Section(
        "Forms of attention, normalization and activation",
        text=("Each network was trained with its forms; costs are those of its plan, one sample per run.",),
        tables=(Table(cells(head), tuple(rows)),),
        after=(
            "Means over seeds; small print under an accuracy: its standard deviation, under MPC: bytes and rounds.",
        ),
    )


def forms_of(model: Reduced) -> Forms | None:
    """What a record's attention, normalizations and activations gave way to, if it says so."""
    given = model.settings.get("forms")
    if not isinstance(given, dict) or not all(part in given for part in _PARTS):
        return None
    attention, norm, activation = (str(given[part]) for part in _PARTS)
    return attention, norm, activation


def _figures(models: Sequence[Reduced], places: Sequence[tuple[str, str]]) -> list[str | Cell]:
    found = [m.test.accuracy for m in models]
    deviation = f"± {100 * statistics.stdev(found):.2f}" if len(found) > 1 else ""
    plans = [m.ckks for m in models if m.ckks is not None and "refused" not in m.ckks]
    ckks: list[str | Cell] = [
        _mean([p.get(key) for p in plans], style)
        for key, style in (("levels", figure), ("rotations", figure), ("predicted_seconds", duration))
    ]
    if not plans and any(m.ckks is not None for m in models):
        ckks[0] = Cell("refused", mark="warn")
    mpc: list[str | Cell] = []
    for protocol, network in places:
        costs = [c for m in models if (c := mpc_costs(m).get(protocol, {}).get(network)) is not None]
        seconds, sent, rounds = ([c.get(key) for c in costs] for key in ("seconds", "bytes", "rounds"))
        under = f"{_mean(sent, size)}, {_mean(rounds, figure)} rounds" if costs else ""
        mpc.append(Cell(_mean(seconds, duration), under))
    return [str(len(found)), Cell(rate(statistics.mean(found)), deviation), *ckks, *mpc]


def _mean(values: Sequence[object], style: Callable[[object], str]) -> str:
    numbers = [float(v) for v in values if isinstance(v, int | float)]
    return style(statistics.mean(numbers)) if numbers else ""
