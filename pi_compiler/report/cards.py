"""The four cards of a private-inference result: model, cryptography, system, application.

The surveys of the field ask for them, because most published figures leave out at least one: whether the
model was retrained, what security rests on, on what machine, and whether time is per answer or amortized.
"""

from __future__ import annotations

from pi_compiler.report.page import Card
from pi_compiler.report.points import Point
from pi_compiler.report.records import Reduced, Reduction
from pi_compiler.report.text import duration

__all__ = ["cards"]


def cards(r: Reduction, points: list[Point]) -> tuple[Card, ...]:
    """The cards of one model on one data set.

    Args:
        r: what was reduced.
        points: all points of all curves.
    """
    return (_model(r), _cryptography(r, points), _system(r), _application(r))


def _model(r: Reduction) -> Card:
    rows = [
        ("Retrained?", _retrained(r)),
        ("Original", f"{r.model}, {r.relu_total:,} ReLUs per sample, sha256 {r.sha256[:12]}"),
        ("Replacement", _replacement(r)),
        ("Choice of epoch", "on the validation split"),
        ("Test split", f"{r.original.images:,} samples, read once per model at the end; NaN counts as wrong"),
    ]
    return Card("Model", tuple(rows))


def _retrained(r: Reduction) -> str:
    stages = sorted({", ".join(f"{n} {e} epochs" for n, e in m.epochs) for m in r.models})
    return f"yes, every reduced model ({'; or '.join(stages)})"


def _replacement(r: Reduction) -> str:
    kinds = sorted({f"{kind} by {grain}" if grain else kind for _, kind, grain in (m.series for m in r.models)})
    ends = [layer.interval for m in r.models for layer in m.layers if layer.interval is not None]
    if not ends:
        return "; ".join(kinds)
    widest = (min(low for low, _ in ends), max(high for _, high in ends))
    return f"{'; '.join(kinds)}; intervals from the training split, within [{widest[0]:.3g}, {widest[1]:.3g}]"


def _cryptography(r: Reduction, points: list[Point]) -> Card:
    plans = [m.ckks for m in r.models if m.ckks is not None and "refused" not in m.ckks]
    refused = sum(1 for m in r.models if m.ckks is not None and "refused" in m.ckks)
    rows: list[tuple[str, str]] = []
    if plans:
        security = sorted({int(float(str(p["security_bits"]))) for p in plans})
        degrees = sorted({int(float(str(p["log_n"]))) for p in plans})
        rows += [
            ("CKKS, leveled", f"planned for {', '.join(sorted({str(p['backend']) for p in plans}))}, no bootstrapping"),
            ("Security", f"{' or '.join(map(str, security))} bits, HomomorphicEncryption.org table, ternary secrets"),
            ("Ring degree", ", ".join(f"2^{n}" for n in degrees)),
        ]
    if refused:
        rows.append(("Refused", f"{refused} of {len(r.models)} models are too deep for leveled parameters"))
    protocols = sorted({p for point in points for p in point.mpc})
    rows += [
        ("MPC", ", ".join(protocols) if protocols else "not predicted: the records hold no MPC cost"),
        ("Adversary", "semi-honest; weights in the clear at the server under CKKS"),
    ]
    return Card("Cryptography", tuple(rows))


def _system(r: Reduction) -> Card:
    versions = sorted({", ".join(f"{k} {v}" for k, v in m.versions.items()) for m in r.models})
    machines = sorted({str(m.ckks["costs_machine"]) for m in r.models if m.ckks and "costs_machine" in m.ckks})
    here = all(bool(m.ckks.get("costs_measured_here")) for m in r.models if m.ckks and "costs_machine" in m.ckks)
    rows = [
        ("Times", "predicted from a cost table; nothing here was run encrypted"),
        ("Cost table", f"{'; '.join(machines)} ({'measured here' if here else 'shipped'})" if machines else "none"),
        ("Training", f"{duration(sum(m.seconds for m in r.models))} for {len(r.models)} models"),
        ("Versions", "; ".join(versions)),
    ]
    return Card("System", tuple(rows))


def _application(r: Reduction) -> Card:
    rows = [
        ("Task", f"classification of {r.quoted}, {len(r.original.classes)} classes"),
        ("Batch", "one sample per ciphertext or protocol run; time per answer, not amortized"),
        ("Accuracy", "of the exported ONNX file in float32, in the clear; costs are those of the same file"),
        ("Seeds", seeds_told(r.models)),
    ]
    return Card("Application", tuple(rows))


def seeds_told(models: tuple[Reduced, ...]) -> str:
    """How many seeds each point has."""
    counts = sorted({sum(1 for o in models if (o.series, o.budget) == (m.series, m.budget)) for m in models})
    return f"{' to '.join(map(str, (counts[0], counts[-1]) if len(counts) > 1 else counts))} per point"
