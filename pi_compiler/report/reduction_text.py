"""What ``reduce`` prints when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import RenderableType

from pi_compiler.report.records import FORMS
from pi_compiler.report.text import duration, mapping, percent, table

__all__ = ["reduction_view"]

_COLUMNS = ("method", "kind", "by", "seed", "ReLUs", "validation", "test", "outside", "NaN", "levels", "CKKS")


def reduction_view(records: Sequence[Mapping[str, object]]) -> RenderableType:
    """One line per reduced model, the all-ReLU model first.

    Args:
        records: as ``record.json`` has them.
    """
    original = mapping(records[0].get("baseline"))
    first = (
        "all ReLUs" if records[0]["relu_total"] else "as it came",
        "",
        "",
        "",
        f"{records[0]['relu_total']:,}",
        *_figures(original),
    )
    return table("Reduced models", _COLUMNS, [first, *map(_row, records)], left=3)


def _row(record: Mapping[str, object]) -> tuple[str, ...]:
    forms = mapping(mapping(record.get("settings")).get("forms"))
    exchanged = ", ".join(str(forms[part]) for part in FORMS if part in forms)
    kind = (exchanged, "") if exchanged else (str(record["kind"]), str(record["granularity"]))
    what = (str(record["method"]), *kind, str(record["seed"]))
    return (*what, f"{record['relu_count']:,}", *_figures(record))


def _figures(record: Mapping[str, object]) -> tuple[str, ...]:
    test, validation, ckks = (mapping(record.get(k)) for k in ("test", "validation", "ckks"))
    return (
        percent(validation.get("accuracy")),
        percent(test.get("accuracy")),
        f"{test.get('out_of_range_images')} of {test.get('images')}",
        str(test.get("nan_images")),
        str(ckks.get("levels", "refused" if "refused" in ckks else "-")),
        duration(ckks.get("predicted_seconds")),
    )
