"""What ``reduce`` prints when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import RenderableType

from pi_compiler.report.text import duration, percent, table

__all__ = ["reduction_view"]

_COLUMNS = ("model", "ReLUs", "of", "validation", "test", "all-ReLU", "outside", "NaN", "CKKS levels", "CKKS time")


def reduction_view(records: Sequence[Mapping[str, object]]) -> RenderableType:
    """One line per reduced model.

    Args:
        records: as ``record.json`` has them.
    """
    return table("Reduced models", _COLUMNS, [_row(r) for r in records])


def _row(record: Mapping[str, object]) -> tuple[str, ...]:
    test, validation, baseline = (_mapping(record.get(k)) for k in ("test", "validation", "baseline"))
    ckks = _mapping(record.get("ckks"))
    return (
        f"{record['method']} {record['kind']} by {record['granularity']}, seed {record['seed']}",
        f"{int(str(record['relu_count'])):,}",
        f"{int(str(record['relu_total'])):,}",
        percent(validation["accuracy"]),
        percent(test["accuracy"]),
        percent(_mapping(baseline.get("test")).get("accuracy")),
        f"{test['out_of_range_images']}/{test['images']}",
        str(test["nan_images"]),
        str(ckks.get("levels", "refused" if "refused" in ckks else "-")),
        duration(ckks.get("predicted_seconds")),
    )


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
